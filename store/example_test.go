package store_test

import (
	"context"
	"errors"
	"fmt"
	"os"

	"mesh"
	"mesh/store"
)

// What is acknowledged is on disk, and a missing stack has its own kind of error.
func ExampleOpen() {
	dir, err := os.MkdirTemp("", "store")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	s, err := store.Open(dir)
	if err != nil {
		panic(err)
	}
	defer s.Close()

	ctx := context.Background()
	asIs := func(_ []mesh.Stack, st mesh.Stack) (mesh.Stack, error) { return st, nil }
	st, err := s.CreateStack(ctx, mesh.Stack{Name: "blog", CreatedBy: "laptop"}, asIs)
	fmt.Println(st.Name, st.CreatedBy, st.Stopped, err)
	st, err = s.UpdateStack(ctx, "blog", func(st *mesh.Stack) error {
		st.Stopped = true
		return nil
	})
	fmt.Println(st.Name, st.CreatedBy, st.Stopped, err)
	_, err = s.Stack(ctx, "shop")
	fmt.Println(errors.Is(err, mesh.NoStack))
	// Output:
	// blog laptop false <nil>
	// blog laptop true <nil>
	// true
}
