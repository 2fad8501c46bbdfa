//go:build race

package router_test

// The race detector multiplies the memory of goroutines and their locks.
const raceDetector = true
