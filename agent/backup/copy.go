package backup

import (
	"io"
	"net"
	"sync"
)

// copied is how much is read and written at once on the way to the repository and
// back: each piece wakes a program, and waits for the next.
const copied = 256 << 10

var copies = sync.Pool{New: func() any { return new([copied]byte) }}

// copyLarge is io.Copy in larger pieces.
func copyLarge(to io.Writer, from io.Reader) (int64, error) {
	buf := copies.Get().(*[copied]byte) //nolint:forcetypeassert // there is nothing else in it
	defer copies.Put(buf)
	return io.CopyBuffer(struct{ io.Writer }{to}, struct{ io.Reader }{from}, buf[:])
}

// buffers are the proxy's.
type buffers struct{}

func (buffers) Get() []byte  { return copies.Get().(*[copied]byte)[:] } //nolint:forcetypeassert // there is nothing else in it
func (buffers) Put(b []byte) { copies.Put((*[copied]byte)(b)) }

// largely is a connection that a request's body goes through in large pieces.
type largely struct{ net.Conn }

// ReadFrom is what package net/http sends a body by.
func (c largely) ReadFrom(body io.Reader) (int64, error) { return copyLarge(c.Conn, body) }
