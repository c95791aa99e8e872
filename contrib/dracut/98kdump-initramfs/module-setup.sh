#!/bin/bash
# A module of dracut that adds nothing to dracut's image: when dracut runs for a kernel, the capture image of that kernel
# is built as well, by kdump-initramfs, as a file of its own. It is for systems whose kernel packages run dracut and no
# hook of ours. It runs only where it is asked for: add_dracutmodules+=" kdump-initramfs " in /etc/dracut.conf.d/.

check() {
    return 255
}

depends() {
    return 0
}

install() {
    local root=()
    # shellcheck disable=SC2154  # dracut sets both
    [[ -z $dracutsysrootdir ]] || root=(--root "$dracutsysrootdir")
    # shellcheck disable=SC2154
    PATH=$PATH:/usr/local/sbin:/usr/local/bin kdump-initramfs kernel-hook "${root[@]}" add "$kernel" ||
        dwarn "kdump-initramfs: add $kernel: exit status $?"
    return 0
}
