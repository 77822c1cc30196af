package record_test

import (
	"testing"

	"github.com/pyrsia/appliance/modules/record"
)

func TestIsTimeZone(t *testing.T) {
	for name, want := range map[string]bool{
		"UTC": true, "Europe/Zurich": true, "Etc/GMT-2": true, "EST5EDT": true, "Asia/Kathmandu": true,
		"": false, "Local": false, "localtime": false, "posixrules": false, "right/UTC": false, "posix/Europe/Zurich": false,
		"Mars/Olympus": false, "CET-1CEST": false, "../UTC": false, "Europe/../UTC": false,
	} {
		if record.IsTimeZone(name) != want {
			t.Errorf("IsTimeZone(%q) is %v", name, !want)
		}
	}
}
