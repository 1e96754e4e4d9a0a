// Package fleet is the servers: how one enrols and proves who it is, whether it
// is heard of, what it holds, and which one a new site goes to. It never speaks
// to a server: the agents' door (package link) calls it.
package fleet
