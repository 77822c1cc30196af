#!/usr/bin/env bash
# Installs what this machine lacks for one of: build, test, demo, coverage. Says nothing
# and is done in a moment when everything is there.
#
#   e2e/setup.sh build|test|demo|coverage
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# A plain su leaves root without the folders that dockerd and runc are in.
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin

fail() { echo "make: $*" >&2; exit 1; }
have() { command -v "$1" >/dev/null 2>&1; }

purpose=${1:-build}
case $purpose in build | test | demo | coverage) ;; *) fail "e2e/setup.sh $purpose: want build, test, demo or coverage." ;; esac

if [ "$purpose" != build ]; then
	[ "$(id -u)" = 0 ] || fail "'make $purpose' runs build nodes, and buildkitd and dockerd need root; run it as root: sudo make $purpose"
	free=$(df -Pk . | awk 'NR==2 {print int($4 / 1048576)}')
	[ "$free" -ge 10 ] || fail "there are $free GiB free here and 'make $purpose' needs 10; free some space or clone onto a larger disk"
fi

# Commands, and the Debian package that each is in. /usr/bin/docker by its path:
# another docker earlier on PATH may be no client of a dockerd.
wanted=(git:git /etc/ssl/certs/ca-certificates.crt:ca-certificates)
have go || wanted+=(go:golang-go)
case $purpose in
test | demo | coverage) wanted+=(runc:runc) ;;&
coverage) wanted+=(mvn:maven /usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1:libfaketime) ;;
test) wanted+=(curl:curl busybox:busybox ip:iproute2 gcc:gcc /usr/include/stdlib.h:libc6-dev skopeo:skopeo mvn:maven java:default-jdk-headless) ;;
demo) wanted+=(curl:curl dockerd:docker.io /usr/bin/docker:docker-cli skopeo:skopeo mvn:maven javac:default-jdk-headless) ;;
esac

missing=()
for w in "${wanted[@]}"; do
	what=${w%:*} package=${w##*:}
	case $what in
	/*) [ -e "$what" ] || missing+=("$package") ;;
	*) have "$what" || missing+=("$package") ;;
	esac
done

if [ ${#missing[@]} -gt 0 ]; then
	have apt-get || fail "${missing[*]} missing, and this is no Debian machine; install them and run make again"
	[ "$(id -u)" = 0 ] || fail "Debian packages ${missing[*]} are missing; run as root: apt-get install ${missing[*]}"
	echo "installing Debian packages: ${missing[*]}"
	export DEBIAN_FRONTEND=noninteractive
	log=$(mktemp)
	trap 'rm -f "$log"' EXIT
	apt-get -q update >"$log" 2>&1 || { tail -5 "$log" >&2; fail "apt-get update failed; mend apt's sources and run make again"; }
	# Debian 12 has the docker client in docker.io itself.
	packages=()
	for p in "${missing[@]}"; do
		[ "$p" != docker-cli ] || apt-cache show docker-cli >/dev/null 2>&1 || p=docker.io
		packages+=("$p")
	done
	# The demo has a dockerd of its own. Debian's would start at once and at every
	# boot, and change how this machine forwards packets.
	docker='' policy=/usr/sbin/policy-rc.d
	[[ " ${packages[*]} " != *" docker.io "* ]] || [ -e /usr/sbin/dockerd ] || docker=new
	if [ -n "$docker" ] && [ ! -e $policy ]; then
		trap 'rm -f "$log" $policy' EXIT
		printf '#!/bin/sh\ncase $1 in docker* | containerd*) exit 101 ;; esac\n' >$policy
		chmod +x $policy
	fi
	apt-get -q -y --no-install-recommends install "${packages[@]}" >"$log" 2>&1 ||
		{ tail -15 "$log" >&2; fail "apt-get install ${packages[*]} failed; mend that and run make again"; }
	if [ -n "$docker" ] && have systemctl; then
		systemctl -q disable docker.service docker.socket containerd.service >"$log" 2>&1 || true
		echo "Debian's own docker service is installed, and neither started nor enabled: 'systemctl enable --now docker' does both"
	fi
fi

# Go: go.mod's version or newer. From 1.21 on Go fetches another version of
# itself. An older one can still fetch it as a module, checked by its go.sum
# database; it only does not know how to run it.
need=$(awk '$1 == "go" {print $2; exit}' go.mod)
newest() { printf '%s\n' "$@" | sort -V | tail -1; }
PATH=$PWD/.tools/go/bin:$PATH
version=$(GOTOOLCHAIN=local GOFLAGS= go env GOVERSION 2>/dev/null || true)
version=${version#go}
version=${version%% *}
[ -n "$version" ] || fail "'go env GOVERSION' failed; mend or remove $(command -v go || echo go) and run make again"
if [ "$(newest "$version" "$need")" = "$version" ]; then
	:
elif [ "$(newest "$version" 1.21)" = "$version" ]; then
	(cd / && GOFLAGS= GOTOOLCHAIN="go$need+auto" go version >/dev/null) ||
		fail "Go $version could not fetch Go $need; see 'go env GOPROXY', or install Go $need"
else
	echo "fetching Go $need (this machine has $version)"
	arch=$(GOFLAGS= go env GOARCH)
	module=golang.org/toolchain@v0.0.1-go$need.linux-$arch
	answer=$(cd / && GOFLAGS=-modcacherw GO111MODULE=on go mod download -json "$module" || true)
	folder=$(sed -n 's/^\t"Dir": "\(.*\)",$/\1/p' <<<"$answer")
	[ -d "$folder" ] || sed -n 's/^\t"Error": "\(.*\)",\{0,1\}$/\1/p' <<<"$answer" >&2
	[ -d "$folder" ] || fail "Go $version could not fetch Go $need; see 'go env GOPROXY', or install Go $need"
	# The module has no executable bits and a go.mod under another name, as the
	# module system wants; go's own toolchain switch mends the same two things.
	rm -rf .tools/go .tools/go.new
	mkdir -p .tools
	cp -r "$folder" .tools/go.new
	chmod -R u+w .tools/go.new
	chmod +x .tools/go.new/bin/* .tools/go.new/pkg/tool/*/* 2>/dev/null || true
	[ ! -e .tools/go.new/src/_go.mod ] || mv .tools/go.new/src/_go.mod .tools/go.new/src/go.mod
	mv .tools/go.new .tools/go
	.tools/go/bin/go version >/dev/null || fail "the fetched Go $need does not run here"
fi
