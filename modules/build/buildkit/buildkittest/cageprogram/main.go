// Command cageprogram is the cage alone, as small as it can be, for tests.
package main

import (
	"os"

	"github.com/pyrsia/appliance/modules/build/buildkit/cage"
)

func main() { os.Exit(cage.Run(os.Args[1:], os.Stderr)) }
