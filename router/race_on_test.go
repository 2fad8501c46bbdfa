//go:build race

package router_test

// raceDetector multiplies the memory that goroutines and their locks take.
const raceDetector = true
