//go:build race

package link_test

// raceDetector multiplies time and memory by about ten, so that no budget holds.
const raceDetector = true
