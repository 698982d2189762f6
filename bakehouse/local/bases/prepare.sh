#!/bin/sh
# Make a machine's base of a bare system: run as root inside it, with the name of the machine's first user.
# A machine is a container with systemd and cloud-init. What it can't do, or must not do to its host, is taken out here;
# all else is as on the AMI.
set -eu
user=$1

mkdir -p /var/lib/cloud/seed/nocloud
cat >/etc/cloud/cloud.cfg.d/20-bakehouse.cfg <<END
# Each machine brings its own seed, in /var/lib/cloud/seed/nocloud, and finds its network, name and disk made.
datasource_list: [NoCloud]
datasource: {NoCloud: {fs_label: null}}
network: {config: disabled}
manage_etc_hosts: false
preserve_hostname: true
growpart: {mode: "off"}
resize_rootfs: false
locale: false
# RSA would cost a first start ten times as much as these two, and no client needs it.
ssh_genkeytypes: [ed25519, ecdsa]
system_info: {default_user: {name: $user}}
END

# Mounts and settings of the kernel belong to the host.
for unit in \
    dev-hugepages.mount dev-mqueue.mount proc-sys-fs-binfmt_misc.automount sys-fs-fuse-connections.mount \
    sys-kernel-config.mount sys-kernel-debug.mount sys-kernel-tracing.mount \
    systemd-binfmt.service systemd-modules-load.service systemd-remount-fs.service systemd-sysctl.service; do
    ln -sf /dev/null "/etc/systemd/system/$unit"
done

# Questions on the console that nobody answers; host keys that cloud-init makes.
ln -sf /dev/null /etc/systemd/system/systemd-firstboot.service
ln -sf /dev/null /etc/systemd/system/sshd-keygen.service

# Timers that would take the package manager's lock in the middle of a bake, or look after disks, which are the host's.
for timer in apt-daily apt-daily-upgrade dnf-makecache dpkg-db-backup e2scrub_all fstrim; do
    if [ -e "/usr/lib/systemd/system/$timer.timer" ]; then systemctl -q disable "$timer.timer"; fi
done

# Where mmdebstrap was given sources it leaves them under a name of its own.
for sources in /etc/apt/sources.list.d/0*.sources; do
    if [ -e "$sources" ]; then mv "$sources" /etc/apt/sources.list.d/debian.sources; fi
done

# Nothing that would be the same on every machine.
rm -f /etc/ssh/ssh_host_* /var/lib/dbus/machine-id /var/lib/systemd/random-seed
: >/etc/machine-id
find /var/log -type f -delete

# /etc and /var are as new as /usr: nothing to rebuild at the first start.
touch /etc/.updated /var/.updated
