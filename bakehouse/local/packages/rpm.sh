#!/bin/sh
# Make the rpm of a deb by its spec, and a signed repository for dnf of it. Usage: rpm.sh FOLDER_FOR_THE_REPOSITORY
#
# Runs as root in a throwaway machine, here in a folder with the deb, the spec and the private key.
set -eu

out=$1
if ! command -v createrepo_c >/dev/null; then
	apt-get -q update
	apt-get -q -y --no-install-recommends install rpm createrepo-c gpg gpg-agent
fi

deb=$(echo ./*.deb)
dpkg-deb --extract "$deb" tree
rpmbuild -bb --quiet --define "_topdir $PWD/build" --define "_rpmdir $out" \
	--define '_build_name_fmt %%{NAME}-%%{VERSION}-%%{RELEASE}.%%{ARCH}.rpm' \
	--define "deb_version $(dpkg-deb --field "$deb" Version)" --define "tree $PWD/tree" ./*.spec

export GNUPGHOME=$PWD/gnupg
mkdir -m 700 "$GNUPGHOME"
gpg --batch --quiet --import key.asc
name=$(gpg --batch --with-colons --list-keys | sed -n 's/^fpr:*\([0-9A-F]*\):$/\1/p')
rpmsign --define "_gpg_name $name" --addsign "$out"/*.rpm
createrepo_c --quiet --general-compress-type gz "$out"
gpg --batch --armor --detach-sign "$out/repodata/repomd.xml"
gpg --batch --armor --export >"$out/repodata/repomd.xml.key"
gpgconf --kill all
