package restic

import (
	"net/http"
	"sync/atomic"
)

// failuresMax is how often the store may fail while the program runs, which asks again: for 15 minutes, if it were left to it.
const failuresMax = 8

// broken notes that the store failed while the program ran: then what the program says of the repository counts for nothing.
type broken struct {
	code  atomic.Int64
	times atomic.Int64
	// lost notes that data is not there, or ends early. The program would ask again for a quarter of an hour: it is ended, unless
	// it is to tell of all that is missing.
	lost    atomic.Bool
	tellAll bool
	end     func() // of the program
}

func (b *broken) status() int { return int(b.code.Load()) }

// watched notes how the store answers.
type watched struct {
	http.ResponseWriter
	failed *broken
	data   bool // it is asked for data
}

func (w *watched) WriteHeader(status int) {
	if status >= http.StatusInternalServerError {
		w.failed.code.Store(int64(status))
		if w.failed.times.Add(1) >= failuresMax {
			w.failed.end()
		}
	}
	if w.data && !w.failed.tellAll && (status == http.StatusNotFound || status == http.StatusRequestedRangeNotSatisfiable) {
		w.failed.lost.Store(true)
		w.failed.end()
	}
	w.ResponseWriter.WriteHeader(status)
}

// Unwrap is for http.ResponseController.
func (w *watched) Unwrap() http.ResponseWriter { return w.ResponseWriter }
