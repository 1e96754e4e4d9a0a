package backup

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"sync"
)

const (
	pieceBytes = 256 << 10
	maxPieces  = 64 // 16 MiB: the site's memory may be small
	// What is fetched in vain is bounded by both, wherever directories lie.
	aheadFree  = 8 << 20
	aheadRatio = 4
)

// ahead answers what restic asks of the backup before: each directory, some
// kilobytes somewhere in a pack, one after the other, and to the control plane and
// back takes milliseconds each time. Directories lie close to each other, so larger
// pieces are fetched, and kept for the job. Nothing of it is on a disk, where it
// would be the next job's to believe. Safe for concurrent use.
type ahead struct {
	fetch func(ctx context.Context, object string, from, to int64) ([]byte, error)

	mu             sync.Mutex
	sizes          map[string]int64 // of packs, as their first answers told
	pieces         map[piece][]byte
	order          []piece // the oldest first
	asked, fetched int64   // bytes
}

type piece struct {
	object string
	number int64
}

// note keeps what an answer tells of an object's size.
func (a *ahead) note(object, contentRange string) {
	var from, to, size int64
	if _, err := fmt.Sscanf(contentRange, "bytes %d-%d/%d", &from, &to, &size); err != nil {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.sizes == nil {
		a.sizes, a.pieces = map[string]int64{}, map[piece][]byte{}
	}
	a.sizes[object] = size
}

// serve answers a request if it can. What it can't, the repository answers itself,
// also where that means to fail.
func (a *ahead) serve(w http.ResponseWriter, r *http.Request, object string) bool {
	var from, to int64
	if _, err := fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-%d", &from, &to); err != nil || r.Method != http.MethodGet {
		return false
	}
	content, size := a.read(r.Context(), object, from, to)
	if content == nil {
		return false
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Content-Length", strconv.Itoa(len(content)))
	w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, to, size))
	w.WriteHeader(http.StatusPartialContent)
	_, _ = w.Write(content) // restic notices, and asks again
	return true
}

// read gives the bytes of a range, nil where it has none and fetches none.
func (a *ahead) read(ctx context.Context, object string, from, to int64) (content []byte, size int64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	size, known := a.sizes[object]
	if !known || from < 0 || to < from || to >= size || to-from >= pieceBytes {
		return nil, 0
	}
	a.asked += to - from + 1
	for n := from / pieceBytes; n <= to/pieceBytes; n++ {
		p := a.piece(ctx, piece{object, n}, size)
		if p == nil {
			return nil, 0
		}
		begin := n * pieceBytes
		content = append(content, p[max(from-begin, 0):min(to-begin+1, int64(len(p)))]...)
	}
	return content, size
}

// piece gives one. Called with mu held, also while it comes: restic asks for one
// directory at a time.
func (a *ahead) piece(ctx context.Context, p piece, size int64) []byte {
	if content, ok := a.pieces[p]; ok {
		return content
	}
	if a.fetched > aheadFree+aheadRatio*a.asked {
		return nil
	}
	from := p.number * pieceBytes
	to := min(from+pieceBytes, size) - 1
	content, err := a.fetch(ctx, p.object, from, to)
	if err != nil {
		return nil
	}
	a.fetched += int64(len(content))
	if len(a.order) == maxPieces {
		delete(a.pieces, a.order[0])
		a.order = slices.Delete(a.order, 0, 1)
	}
	a.pieces[p], a.order = content, append(a.order, p)
	return content
}

// from is ahead's way to the repository.
func (s *Inside) from(t http.RoundTripper) func(context.Context, string, int64, int64) ([]byte, error) {
	return func(ctx context.Context, object string, from, to int64) ([]byte, error) {
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://repository"+object, nil)
		if err != nil {
			return nil, err
		}
		r.Header.Set(tokenHeader, s.token)
		r.Header.Set("Range", fmt.Sprintf("bytes=%d-%d", from, to))
		res, err := t.RoundTrip(r)
		if err != nil {
			return nil, err
		}
		defer res.Body.Close() // read to its end, or of no use
		if res.StatusCode != http.StatusPartialContent {
			return nil, fmt.Errorf("fetch %s: %s", object, res.Status)
		}
		content := make([]byte, to-from+1)
		_, err = io.ReadFull(res.Body, content)
		return content, err
	}
}
