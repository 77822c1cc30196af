// Command relayprogram is the relay alone, as small as it can be, for tests.
package main

import (
	"os"

	"github.com/pyrsia/appliance/modules/build/buildkit/relay"
)

func main() { os.Exit(relay.Run(os.Args[1:], os.Stderr)) }
