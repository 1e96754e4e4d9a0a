//go:build !failpoint

package fail

// Enabled tells whether this build can be killed at its points.
const Enabled = false

// Point does nothing in this build.
func Point(string) {}
