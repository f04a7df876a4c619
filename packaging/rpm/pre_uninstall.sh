if [ "$1" = 0 ] && [ -d /run/systemd/system ]; then
    systemctl --no-reload disable --now haflinger.service
fi
# The data path goes on without the daemon; it ends with the package.
if [ "$1" = 0 ]; then
    haflinger cleanup
    rm -rf /sys/fs/bpf/haflinger
fi
exit 0
