// Package fail holds the points at which tests kill the agent. A point is a
// name in the code, between two effects: fail.Point("nginx.swapped"). In a
// normal build it is nothing at all; in a build with the tag "failpoint" the
// process dies by SIGKILL at the point whose name stands in File. The file is
// removed before the kill, so each arming kills once and the restarted agent
// passes the same point.
//
// It is not a way to inject errors: only sudden death is simulated.
package fail

// File holds the name of the armed point, set by a test before the order that
// is to reach it.
const File = "/run/chom-agent/failpoint"
