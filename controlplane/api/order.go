package api

import (
	"net/http"

	"connectrpc.com/connect"
)

// Three lists say what a request goes through on its way from the listener to a noun. The order of the lines is the order in
// which it happens.

// request is every request's way.
func (d *door) request(next http.Handler) http.Handler {
	return through(next,
		d.identify, // an id for it, and the true address that it comes from
		d.quiet,    // headers that keep browsers from doing more with an answer than reading it
		d.share,    // CORS: which other origins' pages may read the answer
		d.protect,  // CSRF: which pages may make a browser act for its person
	)
}

// call is the way of a call of a method, by whatever protocol. Not a byte of its body is read here.
func (d *door) call(next http.Handler) http.Handler {
	return through(next,
		d.measure,   // a line in the log and a count in the metrics, whatever becomes of it
		d.recognize, // who calls, by session or token; wrong ones are few for each address
		d.limit,     // how often they may
		d.decide,    // whether they may, by the table: from the method and the caller alone
		d.bound,     // how long the body may take; its size is bounded by connect, which reads it now
	)
}

// message is the way of a request that was read, up to the handler that turns it into a call of a noun.
func (d *door) message() connect.HandlerOption {
	return connect.WithInterceptors(
		d,                   // a deadline or a place among the streams, a net below panics, the error in the caller's words
		check(d.validate),   // the rules that the protos state
		check(d.membership), // the caller's role in the organization that the request names, and the sites that it reaches
		again{d},            // all of that once more, every few seconds of a stream
		once{d, methods()},  // a repeat with the same key gets the first one's answer
	)
}

// through puts steps in front of a handler. The first one comes first.
func through(next http.Handler, steps ...func(http.Handler) http.Handler) http.Handler {
	for i := len(steps) - 1; i >= 0; i-- {
		next = steps[i](next)
	}
	return next
}
