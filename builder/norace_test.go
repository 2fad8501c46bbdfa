//go:build !race

package builder_test

const raceDetector = false
