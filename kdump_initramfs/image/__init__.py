"""What is built: the plan of the capture image and the file it becomes."""
