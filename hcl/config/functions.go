package config

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"unicode/utf8"

	"github.com/hashicorp/hcl/v2"
	"github.com/zclconf/go-cty/cty"
	"github.com/zclconf/go-cty/cty/function"
)

// Function is one that a value of pyrsia.hcl may call. It is called whenever the
// file is read, so at a reload too.
type Function struct {
	Name    string
	Takes   string // what its argument is, "" for none
	Example string
	Doc     string
	call    func(argument string) (string, error)
}

// Functions are all functions in the order of the documentation.
func Functions() []Function { return append([]Function(nil), functions...) }

var functions = []Function{
	{
		Name: "env", Takes: "name", Example: `env("PYRSIA_DATA")`, call: environment,
		Doc: "The value of an environment variable of the node, which must be set. systemd sets some with Environment= in a drop-in of the unit.",
	},
	{
		Name: "file", Takes: "path", Example: `file("/etc/pyrsia/checkpoint")`, call: textFile,
		Doc: "The text of a file of at most 64 KiB, without the line ends at its end.",
	},
	{
		Name: "credential", Takes: "name", Example: `credential("mirror-url")`, call: credential,
		Doc: "The text of a credential that systemd hands to the node (LoadCredential=, LoadCredentialEncrypted=), without the line ends at its end.",
	},
	{
		Name: "hostname", Example: `hostname()`, call: func(string) (string, error) { return os.Hostname() },
		Doc: "The name of the machine.",
	},
}

// maxText bounds what a function may return, in bytes.
const maxText = 64 << 10

func environment(name string) (string, error) {
	value, set := os.LookupEnv(name)
	if !set {
		return "", fmt.Errorf("the environment variable %.100q is not set", name)
	}
	return value, nil
}

func textFile(path string) (string, error) {
	if !filepath.IsAbs(path) {
		return "", fmt.Errorf("%.120q is a relative path: it would depend on where the node is started", path)
	}
	data, err := readFile(path, maxText)
	if err != nil {
		return "", fmt.Errorf("cannot read %.200q: %w", path, err)
	}
	if !utf8.Valid(data) || strings.ContainsRune(string(data), 0) {
		return "", fmt.Errorf("%.200q holds no text", path)
	}
	return strings.TrimRight(string(data), "\r\n"), nil
}

// unitCredentials is where systemd keeps the credentials of the running node.
const unitCredentials = "/run/credentials/pyrsia.service"

// credential reads what systemd put into $CREDENTIALS_DIRECTORY (systemd.exec(5)).
func credential(name string) (string, error) {
	folder := os.Getenv("CREDENTIALS_DIRECTORY")
	if folder == "" {
		folder = unitCredentials // root may look at what the running node was given
	}
	if _, err := os.Stat(folder); err != nil {
		return "", errors.New("this program was started without credentials: only systemd hands them out, by LoadCredential= in the unit")
	}
	if name == "" || name == "." || name == ".." || strings.ContainsAny(name, "/\x00") {
		return "", fmt.Errorf("%.100q is no name of a credential", name)
	}
	path := filepath.Join(folder, name)
	if _, err := os.Stat(path); err != nil {
		return "", fmt.Errorf("systemd gave this program no credential %.100q: LoadCredential= in the unit names them", name)
	}
	return textFile(path)
}

// evaluation is what expressions of the file may use.
var evaluation = func() *hcl.EvalContext {
	all := map[string]function.Function{}
	for _, f := range functions {
		all[f.Name] = f.cty()
	}
	return &hcl.EvalContext{Functions: all}
}()

func (f Function) cty() function.Function {
	spec := &function.Spec{Type: function.StaticReturnType(cty.String)}
	if f.Takes != "" {
		spec.Params = []function.Parameter{{Name: f.Takes, Type: cty.String}}
	}
	spec.Impl = func(args []cty.Value, _ cty.Type) (cty.Value, error) {
		argument := ""
		if len(args) > 0 {
			argument = args[0].AsString()
		}
		text, err := f.call(argument)
		return cty.StringVal(text), err
	}
	return function.New(spec)
}
