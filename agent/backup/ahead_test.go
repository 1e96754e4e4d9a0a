package backup

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"
)

func TestAhead(t *testing.T) {
	pack := make([]byte, 10*pieceBytes+1234)
	rand.Read(pack)
	fetched, broken := 0, false
	a := &ahead{fetch: func(_ context.Context, object string, from, to int64) ([]byte, error) {
		if object != "/data/p" || from < 0 || to >= int64(len(pack)) || broken {
			return nil, errors.New("there is no such piece")
		}
		fetched++
		return bytes.Clone(pack[from : to+1]), nil
	}}
	ask := func(from, to int) (*httptest.ResponseRecorder, bool) {
		r, w := httptest.NewRequest(http.MethodGet, "/files-1/data/p", nil), httptest.NewRecorder()
		r.Header.Set("Range", fmt.Sprintf("bytes=%d-%d", from, to))
		return w, a.serve(w, r, "/data/p")
	}
	if _, ok := ask(0, 10); ok {
		t.Fatal("it answers of a pack that it knows nothing of")
	}
	a.note("/data/p", fmt.Sprintf("bytes 0-10/%d", len(pack)))
	for _, r := range [][2]int{{0, 0}, {5, 5000}, {pieceBytes - 1, pieceBytes}, {pieceBytes - 100, 2*pieceBytes - 101}, {len(pack) - 1, len(pack) - 1}, {9*pieceBytes + 5, len(pack) - 1}} {
		w, ok := ask(r[0], r[1])
		want := fmt.Sprintf("bytes %d-%d/%d", r[0], r[1], len(pack))
		switch {
		case r[1]-r[0] >= pieceBytes:
			if ok {
				t.Errorf("%v is larger than a piece, and it answers", r)
			}
		case !ok || w.Code != http.StatusPartialContent || w.Header().Get("Content-Range") != want || !bytes.Equal(w.Body.Bytes(), pack[r[0]:r[1]+1]):
			t.Errorf("%v: %v, %d %s, %d bytes", r, ok, w.Code, w.Header(), w.Body.Len())
		}
	}
	if before := fetched; before > 5 {
		t.Errorf("pieces were fetched %d times", before)
	}
	if _, ok := ask(len(pack)-1, len(pack)); ok {
		t.Error("it answers of what lies behind the end")
	}
	broken = true
	if _, ok := ask(5*pieceBytes, 5*pieceBytes+1); ok {
		t.Error("it answers with what it has not got")
	}
	broken = false

	t.Run("what is of no use is bounded, in memory and on the way", func(t *testing.T) {
		large := int64(1000 * pieceBytes)
		a := &ahead{fetch: func(_ context.Context, _ string, from, to int64) ([]byte, error) { return make([]byte, to-from+1), nil }}
		a.note("/data/p", fmt.Sprintf("bytes 0-10/%d", large))
		n := 0
		for i := range int64(1000) {
			if content, _ := a.read(t.Context(), "/data/p", i*pieceBytes, i*pieceBytes+9); content != nil {
				n++
			}
			if len(a.pieces) > maxPieces || len(a.order) != len(a.pieces) {
				t.Fatalf("it keeps %d pieces", len(a.pieces))
			}
		}
		if most := aheadFree/pieceBytes + 1; n > most || n < most-1 {
			t.Errorf("of 1000 reads all over a pack it answers %d", n)
		}
	})
}
