package archive

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"sync"
)

const (
	// The group is the web server's way in; others get nothing. Nothing is
	// executable: PHP files are read, and archives hold no programs for us.
	dirMode  = 0o750
	fileMode = 0o640

	// Decompression keeps one core busy; creating files is left to two more
	// goroutines so that neither waits for the other.
	workers = 2
	queued  = 64
	// Files up to this size travel through memory, larger ones are written
	// where they are read: queue and workers hold at most 66 * 256 KiB.
	buffered = 256 << 10
)

// writers create files in the background. dir and file report the first error
// of any earlier file, wait the first of all.
type writers struct {
	root   *os.Root
	jobs   chan job
	done   sync.WaitGroup
	mu     sync.Mutex
	failed error
	spare  sync.Pool
}

type job struct {
	name    string
	content []byte
}

func startWriters(root *os.Root) *writers {
	w := &writers{root: root, jobs: make(chan job, queued)}
	for range workers {
		w.done.Go(func() {
			for j := range w.jobs {
				if w.err() == nil { // the first error is enough
					w.fail(w.write(j))
				}
				w.spare.Put(j.content[:0]) //nolint:staticcheck // the slice header's allocation is small beside the file
			}
		})
	}
	return w
}

// dir is immediate: files that need it may already be in line behind it.
func (w *writers) dir(name string) error {
	if err := w.err(); err != nil {
		return err
	}
	err := w.root.Mkdir(name, dirMode)
	if errors.Is(err, fs.ErrExist) {
		info, statErr := w.root.Lstat(name)
		if statErr == nil && info.IsDir() {
			return nil // listed after a file below it
		}
	}
	return err
}

func (w *writers) file(name string, size int64, body io.Reader) error {
	if err := w.err(); err != nil {
		return err
	}
	if size > buffered {
		return w.stream(name, size, body)
	}
	content, _ := w.spare.Get().([]byte)
	if int64(cap(content)) < size {
		content = make([]byte, max(size, 16<<10))
	}
	content = content[:size]
	if _, err := io.ReadFull(body, content); err != nil {
		return damaged(err)
	}
	w.jobs <- job{name, content}
	return nil
}

func (w *writers) stream(name string, size int64, body io.Reader) error {
	f, err := w.create(name)
	if err != nil {
		return err
	}
	defer f.Close()
	source := &tagged{r: body}
	if _, err := io.CopyN(f, source, size); err != nil {
		if source.err != nil {
			return damaged(source.err)
		}
		return fmt.Errorf("write %q: %w", name, err)
	}
	return f.Close()
}

func (w *writers) write(j job) error {
	f, err := w.create(j.name)
	if err != nil {
		return err
	}
	if _, err := f.Write(j.content); err != nil {
		f.Close()
		return fmt.Errorf("write %q: %w", j.name, err)
	}
	return f.Close()
}

func (w *writers) create(name string) (*os.File, error) {
	return w.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, fileMode)
}

func (w *writers) wait() error {
	close(w.jobs)
	w.done.Wait()
	return w.err()
}

func (w *writers) fail(err error) {
	if err == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.failed == nil {
		w.failed = err
	}
}

func (w *writers) err() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.failed
}

// tagged remembers that an error came from reading.
type tagged struct {
	r   io.Reader
	err error
}

func (t *tagged) Read(p []byte) (int, error) {
	n, err := t.r.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		t.err = err
	}
	return n, err
}
