#!/bin/sh
# The floor: the end state of the roles java, jenkins and sysprep on Debian, with nothing asked and nothing proved.
# Runs as root. A line "== STAGE" says what begins.
set -eu
: "${jenkins_repository_url:?}" "${jenkins_repository_key_url:?}" "${jenkins_repository_key_fingerprint:?}"
export DEBIAN_FRONTEND=noninteractive

main() {
    echo "== boot"
    cloud-init status --wait >/dev/null || [ $? = 2 ]

    echo "== tasks"
    python3 -c "$pin" "$jenkins_repository_key_url" "$jenkins_repository_key_fingerprint" /etc/apt/keyrings/jenkins.asc
    cat >/etc/apt/sources.list.d/jenkins.sources <<END
Types: deb
URIs: $jenkins_repository_url
Suites: binary/
Signed-By: /etc/apt/keyrings/jenkins.asc
END
    printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
    chmod 755 /usr/sbin/policy-rc.d

    echo "== package manager"
    apt-get -q update
    apt-get -qy install --no-install-recommends \
        openjdk-21-jre-headless fontconfig libfreetype6 libharfbuzz0b jenkins

    echo "== tasks"
    rm /usr/sbin/policy-rc.d
    mkdir -p /etc/systemd/system/jenkins.service.d
    cat >/etc/systemd/system/jenkins.service.d/10-bakehouse.conf <<END
# Written by Bakehouse's jenkins role. Your own settings belong in override.conf beside it, which is read later and wins.

[Service]
TimeoutStartSec=300
Environment="JAVA_HOME=/usr/lib/jvm/java-21-openjdk-amd64"
Environment="JENKINS_PORT=8080"
Environment="JAVA_OPTS=-Djava.awt.headless=true"
END
    systemctl daemon-reload
    systemctl enable jenkins.service
    sysprep
}

# Refuse a key file that does not begin with the pinned key.
pin='
import base64, hashlib, sys, urllib.request
url, fingerprint, path = sys.argv[1:]
text = urllib.request.urlopen(url).read()
data = base64.b64decode(b"".join(text.split(b"\n\n", 1)[1].split(b"\n=")[0].split()))
begin = 3 if data[0] == 0x99 else 2
key = data[begin : begin + int.from_bytes(data[1:begin], "big")]
found = hashlib.sha1(b"\x99" + len(key).to_bytes(2, "big") + key).hexdigest().upper()
if found != fingerprint:
    sys.exit(f"the key {url} is {found}, not {fingerprint}")
open(path, "wb").write(text)
'

# As roles/sysprep/tasks does.
sysprep() {
    cloud-init clean --logs --seed
    apt-get clean
    rm -rf /var/lib/apt/lists/* /var/lib/apt/periodic/* /var/cache/debconf/*-old /var/lib/dpkg/*-old
    touch --date=@0 /var/lib/apt/lists
    find /tmp /var/tmp -mindepth 1 -maxdepth 1 ! -name 'systemd-private-*' -exec rm -rf {} +
    rm -rf /var/crash/* /var/lib/systemd/coredump/*
    journalctl --relinquish-var
    rm -rf /var/log/journal/*
    find /var/log -type f \( -name '*.gz' -o -name '*.xz' -o -name '*.old' -o -name '*.[0-9]' \) -delete
    find /var/log -type f -exec truncate --size=0 {} +
    rm -f /etc/ssh/ssh_host_*
    : >/etc/machine-id
    if [ -d /var/lib/dbus ]; then ln -sf /etc/machine-id /var/lib/dbus/machine-id; fi
    systemctl stop systemd-random-seed.service
    rm -f /var/lib/systemd/random-seed /var/lib/systemd/credential.secret
    while IFS=: read -r _ _ _ _ _ home _; do
        rm -rf "$home/.ansible" "$home/.cache"
        rm -f "$home"/.ssh/authorized_keys* "$home"/.ssh/known_hosts* "$home"/.*_history
    done </etc/passwd
}

# All is read by now, so that nothing takes the rest of this script for its input.
main </dev/null
