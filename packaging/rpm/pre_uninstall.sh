if [ "$1" = 0 ] && [ -d /run/systemd/system ]; then
    systemctl --no-reload disable --now haflinger.service
fi
# The data path goes on without the daemon; it ends with the package.
if [ "$1" = 0 ]; then
    haflinger cleanup
    rmdir /sys/fs/bpf/haflinger 2>/dev/null
fi
exit 0
