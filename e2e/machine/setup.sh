#!/usr/bin/env bash
# Installs what e2e/machine needs on Debian 12 or 13: systemd-nspawn, mmdebstrap
# and the keys of both suites. Says nothing and is done in a moment when
# everything is there.
#
#   e2e/machine/setup.sh
set -euo pipefail

# A plain su leaves root without the folders that these programs are in.
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin

fail() { echo "make: $*" >&2; exit 1; }
have() { command -v "$1" >/dev/null 2>&1; }

[ "$(id -u)" = 0 ] || fail "tests with a systemd of their own need root; run this as root"

# Commands and files, and the Debian package that each is in. Trixie's keys came
# into Debian 12's debian-archive-keyring in 2025: an older one is upgraded.
wanted=(
	systemd-nspawn:systemd-container
	mmdebstrap:mmdebstrap
	unshare:util-linux
	umount:mount
	/usr/share/keyrings/debian-archive-keyring.gpg:debian-archive-keyring
	/usr/share/keyrings/debian-archive-trixie-stable.gpg:debian-archive-keyring
)
missing=()
for w in "${wanted[@]}"; do
	what=${w%:*} package=${w##*:}
	case $what in
	/*) [ -e "$what" ] || missing+=("$package") ;;
	*) have "$what" || missing+=("$package") ;;
	esac
done
[ ${#missing[@]} -gt 0 ] || exit 0

have apt-get || fail "${missing[*]} missing, and this is no Debian machine; install them and run make again"
echo "installing Debian packages: ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
log=$(mktemp)
trap 'rm -f "$log"' EXIT
apt-get -q update >"$log" 2>&1 || { tail -5 "$log" >&2; fail "apt-get update failed; mend apt's sources and run make again"; }
apt-get -q -y --no-install-recommends install "${missing[@]}" >"$log" 2>&1 ||
	{ tail -15 "$log" >&2; fail "apt-get install ${missing[*]} failed; mend that and run make again"; }
[ -e /usr/share/keyrings/debian-archive-trixie-stable.gpg ] ||
	fail "debian-archive-keyring has no keys of trixie; have apt's sources name a newer one and run make again"
