// Package fail holds the points at which tests kill the control plane. A point
// is a name in the code, between two effects: fail.Point("task.offered"). In a
// normal build it is nothing at all; in a build with the tag "failpoint" the
// process dies by SIGKILL at the point whose name stands in the file that the
// environment variable CHOM_FAILPOINT_FILE names. The file is removed before
// the kill, so each arming kills once and the restarted process passes.
//
// Points are named after the noun and what happens: "task.STATE.save" lies in
// the transaction that brings a task to a state, before its commit, and
// "task.STATE.committed" right after it.
//
// It is not a way to inject errors: only sudden death is simulated.
package fail

// Variable names the environment variable that holds the path of the file in
// which a test writes the name of a point.
const Variable = "CHOM_FAILPOINT_FILE"
