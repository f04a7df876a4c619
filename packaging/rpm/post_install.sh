systemd-sysusers /usr/lib/sysusers.d/haflinger.conf
# Fails where no BPF file system is mounted; the daemon then says so.
systemd-tmpfiles --create /usr/lib/tmpfiles.d/haflinger.conf
file=/etc/haflinger/haflinger.toml
if [ -f "$file" ] && [ "$(stat --format %U:%G "$file")" = root:root ]; then
    chgrp haflinger "$file"
    chmod 0640 "$file"
fi
if [ -d /run/systemd/system ]; then
    systemctl daemon-reload
    if [ "$1" = 1 ]; then
        systemctl preset haflinger.service
    else
        systemctl try-restart haflinger.service
    fi
fi
exit 0
