#!/usr/bin/env bash
# Makes the Debian package from what stands in a folder of programs: the same bytes
# whenever it runs on the same commit with the same dpkg.
#
#   systemd/debian/build.sh BIN OUT VERSION EPOCH
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
bin=$1 out=$2 version=$3 epoch=$4
stage=$(mktemp -d)
trap 'rm -rf "$stage"' EXIT
umask 022
root=$stage/root
put() { install -D -m "$1" "$2" "$root$3"; }

put 0755 "$bin/pyrsia" /usr/bin/pyrsia
put 0755 "$bin/buildkitd" /usr/lib/pyrsia/buildkitd
put 0755 "$bin/buildctl" /usr/lib/pyrsia/buildctl
ln -s ../../bin/pyrsia "$root/usr/lib/pyrsia/pyrsia-runc"
put 0644 "$here/buildkitd.toml" /usr/lib/pyrsia/buildkitd.toml
for unit in "$here"/../units/pyrsia*; do put 0644 "$unit" "/usr/lib/systemd/system/${unit##*/}"; done
put 0644 "$here/../units/sysusers.conf" /usr/lib/sysusers.d/pyrsia.conf
put 0644 "$here/../units/preset" /usr/lib/systemd/system-preset/50-pyrsia.preset
"$bin/pyrsia" catalogue >"$stage/catalogue"
put 0644 "$stage/catalogue" /usr/lib/systemd/catalog/pyrsia.catalog
install -d "$root/usr/lib/systemd/system-generators"
ln -s ../../../bin/pyrsia "$root/usr/lib/systemd/system-generators/pyrsia-generator"
put 0644 "$here/pyrsia.hcl.example" /usr/share/doc/pyrsia/pyrsia.hcl.example
for shell in bash zsh fish; do "$bin/pyrsia" completion $shell >"$stage/$shell"; done
put 0644 "$stage/bash" /usr/share/bash-completion/completions/pyrsia
put 0644 "$stage/zsh" /usr/share/zsh/vendor-completions/_pyrsia
put 0644 "$stage/fish" /usr/share/fish/vendor_completions.d/pyrsia.fish
"$bin/pyrsia" man "$stage/man" --date "$epoch"
for page in "$stage"/man/*.1; do gzip -9n "$page"; put 0644 "$page.gz" "/usr/share/man/man1/${page##*/}.gz"; done

install -d "$root/DEBIAN"
for script in postinst prerm postrm; do install -m 0755 "$here/$script" "$root/DEBIAN/$script"; done
size=$(du -sk --apparent-size "$root" | cut -f1)
cat >"$root/DEBIAN/control" <<CONTROL
Package: pyrsia
Version: $version
Architecture: amd64
Maintainer: The Pyrsia project <maintainers@pyrsia.example>
Installed-Size: $size
Depends: systemd (>= 252), passwd, ca-certificates
Recommends: runc
Section: net
Priority: optional
Description: node of a network that builds open-source packages from source
 Several independent build nodes make the same build, each for itself; what more than
 half of them made byte for byte alike is published in a log. A regular node serves it
 to docker, Maven and others, and verifies every byte against the log.
CONTROL
(cd "$root" && find . -type f ! -path './DEBIAN/*' -printf '%P\0' | LC_ALL=C sort -z | xargs -0 md5sum >DEBIAN/md5sums)
find "$root" -exec touch -h -d "@$epoch" {} +
mkdir -p "$out"
SOURCE_DATE_EPOCH=$epoch dpkg-deb --root-owner-group -Zxz -z6 --threads-max=1 --build "$root" "$out/pyrsia_${version}_amd64.deb" >/dev/null
