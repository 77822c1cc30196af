package config

import (
	"errors"
	"fmt"
	"math"
	"math/big"
	"net/netip"
	"net/url"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/pyrsia/appliance/modules/artifact"
	"github.com/pyrsia/appliance/modules/record"
)

// wrong is what a parser of this file says about a text that it does not take.
type wrong struct {
	detail string
	fix    string // in words, or "" if there is no better idea
}

// Error implements error.
func (w *wrong) Error() string { return w.detail }

func wrongf(fix, format string, args ...any) error {
	return &wrong{detail: fmt.Sprintf(format, args...), fix: fix}
}

func write(text string) string { return "write " + strconv.Quote(text) }

// The units of a size, largest first of each family.
var units = []struct {
	name  string
	bytes int64
}{
	{"TiB", 1 << 40}, {"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10},
	{"TB", 1e12}, {"GB", 1e9}, {"MB", 1e6}, {"kB", 1e3}, {"B", 1},
}

var quantity = regexp.MustCompile(`^([0-9]{1,15}(?:\.[0-9]{1,6})?)([A-Za-z]+)$`)

// ParseSize reads a number of bytes with a unit: "50GiB", "1.5TB". Units are
// B, kB, MB, GB, TB (powers of 1000) and KiB, MiB, GiB, TiB (powers of 1024);
// the number of bytes must be whole.
func ParseSize(s string) (int64, error) {
	m := quantity.FindStringSubmatch(s)
	if m == nil {
		return 0, wrongf(suggestSize(s), "%.60q is not a size: want a number and a unit, such as \"50GiB\".", s)
	}
	for _, unit := range units {
		if unit.name == m[2] {
			return multiply(s, m[1], unit.bytes)
		}
	}
	return 0, wrongf(suggestSize(s), "%.60q has the unknown unit %.20q: units are B, kB, MB, GB, TB, KiB, MiB, GiB and TiB.", s, m[2])
}

func multiply(s, number string, unit int64) (int64, error) {
	product, _ := new(big.Rat).SetString(number)
	product.Mul(product, new(big.Rat).SetInt64(unit))
	if !product.IsInt() {
		return 0, wrongf("", "%.60q is not a whole number of bytes.", s)
	}
	if !product.Num().IsInt64() || product.Num().Int64() > math.MaxInt64/2 {
		return 0, wrongf("", "%.60q is too large.", s)
	}
	return product.Num().Int64(), nil
}

// suggestSize guesses what a malformed size was meant to be.
func suggestSize(s string) string {
	m := regexp.MustCompile(`^\s*([0-9]{1,15}(?:\.[0-9]{1,6})?)\s*([A-Za-z]*)\s*$`).FindStringSubmatch(s)
	if m == nil {
		return "write a size such as \"50GiB\""
	}
	if m[2] == "" {
		return fmt.Sprintf("write %q, %q or %q", m[1]+"B", m[1]+"MiB", m[1]+"GiB")
	}
	for _, unit := range units {
		if strings.EqualFold(unit.name, m[2]) {
			return write(m[1] + unit.name)
		}
	}
	switch first := strings.ToUpper(m[2][:1]); first {
	case "K", "M", "G", "T":
		return write(m[1] + first + "iB")
	}
	return "write a size such as " + strconv.Quote(m[1]+"GiB")
}

// FormatSize writes a size with the largest unit that keeps it whole.
func FormatSize(n int64) string {
	for _, unit := range units {
		if unit.bytes > 1 && n != 0 && n%unit.bytes == 0 {
			return strconv.FormatInt(n/unit.bytes, 10) + unit.name
		}
	}
	return strconv.FormatInt(n, 10) + "B"
}

// unlimited is the rate without a limit; it is 0 in Config.
const unlimited = "unlimited"

// ParseRate reads a number of bytes per second: "20MiB/s", or "unlimited",
// which is 0.
func ParseRate(s string) (int64, error) {
	if s == unlimited {
		return 0, nil
	}
	size, isRate := strings.CutSuffix(s, "/s")
	if !isRate {
		fix := "write a rate such as \"20MiB/s\", or \"unlimited\""
		if _, err := ParseSize(strings.TrimSpace(s)); err == nil {
			fix = write(strings.TrimSpace(s) + "/s")
		}
		return 0, wrongf(fix, "%.60q is not a rate: want a size per second, such as \"20MiB/s\".", s)
	}
	n, err := ParseSize(size)
	if err != nil {
		fix := "write a rate such as \"20MiB/s\", or \"unlimited\""
		if w, ok := errors.AsType[*wrong](err); ok && strings.HasPrefix(w.fix, "write \"") && strings.HasSuffix(w.fix, "B\"") {
			fix = strings.TrimSuffix(w.fix, "\"") + "/s\""
		}
		return 0, wrongf(fix, "%.60q is not a rate: want a size per second, such as \"20MiB/s\".", s)
	}
	if n == 0 {
		return 0, wrongf("to move nothing set share = false; for no limit write \"unlimited\"", "%.60q would never end.", s)
	}
	return n, nil
}

// FormatRate writes a rate as ParseRate reads it.
func FormatRate(n int64) string {
	if n == 0 {
		return unlimited
	}
	return FormatSize(n) + "/s"
}

const day = 24 * time.Hour

var days = regexp.MustCompile(`^([0-9]{1,5})d(.*)$`)

// ParseDuration reads a time span: "90s", "10m", "1h30m", "7d", "1d12h".
func ParseDuration(s string) (time.Duration, error) {
	rest, whole := s, time.Duration(0)
	if m := days.FindStringSubmatch(s); m != nil {
		n, _ := strconv.Atoi(m[1])
		if whole, rest = time.Duration(n)*day, m[2]; rest == "" {
			return whole, nil
		}
	}
	d, err := time.ParseDuration(rest)
	if err != nil || strings.HasPrefix(rest, "+") {
		return 0, wrongf(suggestDuration(s), "%.60q is not a duration: want numbers and units, such as \"10m\" or \"1h30m\".", s)
	}
	if d < 0 {
		return 0, wrongf(write(strings.Replace(s, "-", "", 1)), "%.60q is negative.", s)
	}
	if d > math.MaxInt64-whole {
		return 0, wrongf("", "%.60q is too long.", s)
	}
	return whole + d, nil
}

func suggestDuration(s string) string {
	m := regexp.MustCompile(`^\s*([0-9]{1,9})\s*([A-Za-z]*)\s*$`).FindStringSubmatch(s)
	if m == nil {
		return "write a duration such as \"10m\""
	}
	if m[2] == "" {
		return fmt.Sprintf("write %q, %q or %q", m[1]+"s", m[1]+"m", m[1]+"h")
	}
	word := strings.ToLower(m[2])
	for _, unit := range []struct{ prefix, short string }{{"ms", "ms"}, {"milli", "ms"}, {"s", "s"}, {"m", "m"}, {"h", "h"}, {"d", "d"}} {
		if strings.HasPrefix(word, unit.prefix) {
			return write(m[1] + unit.short)
		}
	}
	if strings.HasPrefix(word, "w") {
		n, _ := strconv.Atoi(m[1])
		return write(strconv.Itoa(7*n) + "d")
	}
	return "write a duration such as " + strconv.Quote(m[1]+"m")
}

// FormatDuration writes a time span as ParseDuration reads it.
func FormatDuration(d time.Duration) string {
	if d == 0 {
		return "0s"
	}
	text := ""
	if d >= day {
		text, d = strconv.Itoa(int(d/day))+"d", d%day
	}
	for _, unit := range []struct {
		span time.Duration
		name string
	}{{time.Hour, "h"}, {time.Minute, "m"}} {
		if d >= unit.span {
			text, d = text+strconv.Itoa(int(d/unit.span))+unit.name, d%unit.span
		}
	}
	if d > 0 {
		text += d.String()
	}
	return text
}

func parseGenesis(s string) (record.Hash, error) {
	hash, err := record.ParseHash(s)
	if err == nil && strings.HasPrefix(s, "sha256:") {
		return hash, nil
	}
	if err == nil {
		return hash, wrongf(write("sha256:"+s), "%.80q does not say which hash it is.", s)
	}
	digits := strings.TrimPrefix(s, "sha256:")
	if lower := strings.ToLower(digits); lower != digits {
		if _, err := record.ParseHash(lower); err == nil {
			return hash, wrongf(write("sha256:"+lower), "%.80q has upper-case digits.", s)
		}
	}
	return hash, wrongf("copy the line that `pyrsia network init` printed",
		"%.80q is not a genesis hash: want \"sha256:\" and 64 hexadecimal digits, this has %d.", s, len(digits))
}

func parseIdentity(s string) (record.Identity, error) {
	id := record.Identity(s)
	if _, err := id.Key(); err != nil {
		return "", wrongf("copy what `pyrsia id` prints on that node", "%.80q is not a PeerID: want the base58 form of an Ed25519 key, \"12D3KooW…\".", s)
	}
	return id, nil
}

// parseCheckpoint takes a checkpoint with or without its signatures, so that
// the whole output of `pyrsia log checkpoint` can be pasted.
func parseCheckpoint(s string) (*record.Checkpoint, error) {
	lines := strings.SplitAfterN(s, "\n", 4)
	if len(lines) > 3 && (lines[3] == "" || strings.HasPrefix(lines[3], "\n")) {
		s = strings.Join(lines[:3], "")
	}
	c, err := record.ParseCheckpointBody(s)
	if err != nil || c.Size < 1 {
		return nil, wrongf("paste the first three lines of `pyrsia log checkpoint` between <<END and END",
			"The checkpoint is not one: want three lines with its origin, its size and its root hash.")
	}
	return &c, nil
}

// parsePath takes absolute, clean paths: a relative one would mean another
// place for every folder that the node is started in.
func parsePath(s string) (string, error) {
	if s == "" || strings.ContainsRune(s, 0) {
		return "", wrongf("write an absolute path", "%.80q is not a path.", s)
	}
	if !filepath.IsAbs(s) {
		return "", wrongf("write the whole path, beginning with /", "%.120q is a relative path: it would depend on where the node is started.", s)
	}
	if clean := filepath.Clean(s); clean != s {
		return "", wrongf(write(clean), "%.120q is not in its shortest form.", s)
	}
	return s, nil
}

// maxSocket is the longest path of the control socket in bytes: a Unix
// socket's 107 less what its private folder takes while it is made.
const maxSocket = 107 - len("/.new-0000000000/s")

func parseSocket(s string) (string, error) {
	path, err := parsePath(s)
	if err == nil && len(path) > maxSocket {
		err = wrongf("choose a shorter one, such as \"/run/pyrsia/control.sock\"",
			"%.160q is too long for a Unix socket: %d bytes, the limit is %d.", s, len(path), maxSocket)
	}
	return path, err
}

func parseURL(s string) (string, error) {
	u, err := url.Parse(s)
	if err != nil || u.Host == "" || (u.Scheme != "https" && u.Scheme != "http") {
		fix := "write a URL such as \"https://registry.example\""
		if err == nil && u.Scheme == "" && u.Path != "" && !strings.HasPrefix(s, "/") {
			fix = write("https://" + s)
		}
		return "", wrongf(fix, "%.120q is not a URL with http or https and a host.", s)
	}
	if u.RawQuery != "" || u.Fragment != "" || u.User != nil {
		return "", wrongf("leave out user, query and fragment", "%.120q has more than a scheme, a host and a path.", s)
	}
	return s, nil
}

func parseHostPort(s string) (string, error) {
	const want = "want an IP address and a port, such as \"127.0.0.1:7888\" or \"[::]:7888\""
	cut := strings.LastIndex(s, ":")
	if cut < 0 {
		fix := "add a port: " + strconv.Quote(s+":7888")
		if _, err := strconv.ParseUint(s, 10, 16); err == nil {
			fix = write("127.0.0.1:" + s)
		}
		return "", wrongf(fix, "%.80q has no port: %s.", s, want)
	}
	if s[:cut] == "" {
		return "", wrongf(write("0.0.0.0"+s)+" for everybody, or "+strconv.Quote("127.0.0.1"+s)+" for this machine",
			"%.80q does not say on which address: %s.", s, want)
	}
	if s[:cut] == "localhost" {
		return "", wrongf(write("127.0.0.1"+s[cut:]), "%.80q is a name: %s.", s, want)
	}
	address, err := netip.ParseAddrPort(s)
	if err != nil {
		fix := "write an address such as \"127.0.0.1:7888\""
		if ip, err := netip.ParseAddr(s); err == nil && ip.Is6() {
			fix = write("[" + s + "]:7888")
		}
		return "", wrongf(fix, "%.80q is not an address: %s.", s, want)
	}
	return address.String(), nil
}

func parseWorker(s string) (string, error) {
	u, err := url.Parse(s)
	switch {
	case err != nil || u.Scheme == "":
		fix := "write \"unix:///run/pyrsia/buildkitd.sock\""
		if strings.HasPrefix(s, "/") {
			fix = write("unix://" + s)
		}
		return "", wrongf(fix, "%.120q is not the address of a buildkitd: want unix:// and a path, or tcp:// and host:port.", s)
	case u.Scheme == "unix" && u.Host == "" && strings.HasPrefix(u.Path, "/"):
		return s, nil
	case u.Scheme == "unix":
		return "", wrongf(write("unix:///"+strings.TrimLeft(u.Host+u.Path, "/")), "%.120q has no absolute path: unix:// needs a third slash.", s)
	case u.Scheme == "tcp" && u.Port() != "" && u.Hostname() != "" && u.Path == "":
		return s, nil
	case u.Scheme == "tcp":
		return "", wrongf("write \"tcp://worker.example:1234\"", "%.120q needs a host and a port and nothing else.", s)
	}
	return "", wrongf("use unix:// or tcp://", "%.120q: a worker cannot be reached by %q.", s, u.Scheme)
}

func parseDenied(s string) (Denied, error) {
	if digest, err := artifact.ParseSHA256(s); err == nil {
		return Denied{Digest: digest}, nil
	}
	if strings.HasPrefix(s, "sha256:") {
		return Denied{}, wrongf("", "%.100q is not a digest: want \"sha256:\" and 64 lower-case hexadecimal digits.", s)
	}
	purl, err := artifact.ParsePURL(s)
	if err != nil {
		return Denied{}, wrongf("write \"pkg:maven/group/name@version\", \"pkg:docker/name@tag\" or \"sha256:…\"",
			"%.120q is neither a package URL in canonical form nor a digest.", s)
	}
	return Denied{Package: purl}, nil
}

// String is the entry as it stands in the file.
func (d Denied) String() string {
	if d.Package != "" {
		return string(d.Package)
	}
	return d.Digest.OCI()
}

// Matches tells whether the entry denies a package, whatever its version if
// the entry names none.
func (d Denied) Matches(purl artifact.PURL) bool {
	if d.Package == "" {
		return false
	}
	if d.Package.Version() != "" {
		return d.Package == purl
	}
	return d.Package.Type() == purl.Type() && d.Package.Namespace() == purl.Namespace() && d.Package.Name() == purl.Name()
}
