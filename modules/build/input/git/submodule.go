package git

import "strings"

const (
	modulesFile = ".gitmodules"
	maxModules  = 1 << 20 // bytes
)

// moduleURL is the address that .gitmodules has for the submodule at a path, ""
// if it has none. It is for the text of an error, so what it cannot read does
// not matter.
func moduleURL(data []byte, at string) string {
	path, address := "", ""
	for line := range strings.Lines(string(data)) {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "[") {
			path, address = "", ""
			continue
		}
		key, value, _ := strings.Cut(line, "=")
		value = strings.Trim(strings.TrimSpace(value), `"`)
		switch strings.ToLower(strings.TrimSpace(key)) {
		case "path":
			path = value
		case "url":
			address = value
		}
		if path == at && address != "" {
			return address
		}
	}
	return ""
}
