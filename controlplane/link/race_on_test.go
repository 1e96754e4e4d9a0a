//go:build race

package link_test

// raceDetector multiplies memory by about ten, so that no budget holds.
const raceDetector = true
