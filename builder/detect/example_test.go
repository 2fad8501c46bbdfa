package detect_test

import (
	"fmt"
	"strings"
	"testing/fstest"

	"mesh/builder/detect"
)

// A tree without a Dockerfile gets one that a person can read and keep.
func ExampleDetect() {
	plan, err := detect.Detect(fstest.MapFS{"public/index.html": {Data: []byte("<h1>Hello</h1>")}}, detect.Settings{})
	if err != nil {
		panic(err)
	}
	fmt.Println(plan.Title()+",", "because", plan.Because)
	for _, f := range plan.Facts {
		fmt.Printf("%s (%s)\n", f.What, f.Why)
	}
	for line := range strings.Lines(plan.Dockerfile) {
		if strings.HasPrefix(line, "FROM ") || strings.HasPrefix(line, "COPY ") || strings.HasPrefix(line, "USER ") {
			fmt.Print(line)
		}
	}
	// Output:
	// Static site, because there is a public/index.html
	// serves public/ (public/index.html)
	// starts serve-site (nginx, with /etc/nginx/site.conf)
	// FROM nginx:stable-alpine-slim
	// COPY public /www
	// USER 1000:1000
}
