package mesh_test

import (
	"errors"
	"fmt"
	"log/slog"
	"os"

	"mesh"
)

func ExampleParseStackName() {
	name, err := mesh.ParseStackName("blog")
	fmt.Println(name, err)
	_, err = mesh.ParseStackName("My Blog")
	fmt.Println(errors.Is(err, mesh.Invalid))
	// Output:
	// blog <nil>
	// true
}

func ExampleParseEndpoint() {
	e, err := mesh.ParseEndpoint("https://www.example.com/api/")
	fmt.Println(e, err)
	fmt.Println(e.Covers("/api/v2"), e.Covers("/apiary"))
	// Output:
	// https://www.example.com/api <nil>
	// true false
}

// A secret shows a mask wherever text is shown, however deep it is nested.
func ExampleSecret() {
	config := mesh.Config{"DATABASE_URL": mesh.NewSecret("postgres://shop:hunter2@db/shop")}
	fmt.Println(config)
	log := slog.New(slog.NewTextHandler(os.Stdout, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}}))
	log.Info("config read", "url", config["DATABASE_URL"])
	fmt.Println(config["DATABASE_URL"].Reveal())
	// Output:
	// map[DATABASE_URL:••••••]
	// level=INFO msg="config read" url=••••••
	// postgres://shop:hunter2@db/shop
}

// Code checks the kind; a person reads the text and the hint.
func ExampleError() {
	err := fmt.Errorf("roll out: %w", mesh.Errorf(mesh.NotFound, "no stack is named %q", "shpo").WithHint("list all with: ssh mesh stacks"))
	fmt.Println(errors.Is(err, mesh.NotFound))
	var e *mesh.Error
	if errors.As(err, &e) {
		fmt.Printf("error: %s\nhint:  %s\n", e.Text, e.Hint)
	}
	// Output:
	// true
	// error: no stack is named "shpo"
	// hint:  list all with: ssh mesh stacks
}
