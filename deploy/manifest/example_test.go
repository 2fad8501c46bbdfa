package manifest_test

import (
	"fmt"
	"maps"
	"slices"

	"mesh/deploy/manifest"
)

func ExampleParseProcfile() {
	services, err := manifest.ParseProcfile("web: bin/serve --port $PORT\nworker: bin/work\n")
	if err != nil {
		panic(err)
	}
	for _, name := range slices.Sorted(maps.Keys(services)) {
		fmt.Printf("%s runs %q\n", name, services[name])
	}
	// Output:
	// web runs "bin/serve --port $PORT"
	// worker runs "bin/work"
}
