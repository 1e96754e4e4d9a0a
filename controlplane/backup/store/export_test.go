package store

import "time"

// SetPause has tests wait less for what stalls.
func (s *Server) SetPause(d time.Duration) { s.pause = d }

// SetStall does so for a bucket.
func (s *S3) SetStall(d time.Duration) { s.stall = d }
