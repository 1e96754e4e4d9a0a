package journal

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"chom.dev/proto/contract"
)

const (
	pageSize   = 4096
	sectorSize = 512
)

// TestPowerLoss rebuilds the files that a power loss can leave behind, and
// opens them. bbolt syncs the pages of a transaction, then writes and syncs
// one of two meta pages. So a crash leaves
//
//	before the first sync: any part of the data pages, in any order, torn or
//	                       zeroed, with both old meta pages, the file grown or not;
//	after it:              all data pages, with the new meta page old, torn or whole.
//
// Each must open as the state before the write or the one after it, and as the
// one after it once the write was acknowledged, which is when it is whole.
func TestPowerLoss(t *testing.T) {
	dir := fastDir(t)
	path := filepath.Join(dir, "j.db")
	j := openAt(t, path)
	rng := rand.New(rand.NewPCG(3, 4))
	var started []Attempt
	before := snapshot(t, dir, path)
	for round := range 40 {
		e := Entry{}
		if len(started) > 3 && rng.IntN(3) == 0 {
			e = end(started[0], time.Now())
			started = started[1:]
		} else {
			e = accept(uint64(100*round + rng.IntN(100)))
			e.Site = &Site{ID: contract.NewSiteID(), Organization: contract.NewOrganizationID(), Handle: contract.NewHandle(), UID: 200000 + uint32(round)}
			started = append(started, *e.Attempt)
		}
		write(t, j, e)
		after := snapshot(t, dir, path)
		for trial := range 25 {
			image, acknowledged := crash(rng, before.raw, after.raw)
			got := snapshotOf(t, dir, image)
			switch {
			case got == after.text:
			case got == before.text && !acknowledged:
			default:
				t.Fatalf("round %d, trial %d (acknowledged %v): the file holds\n%s\nbefore the write it was\n%s\nafter it\n%s",
					round, trial, acknowledged, got, before.text, after.text)
			}
		}
		before = after
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
}

// state is a journal's file and what it means.
type state struct {
	raw  []byte
	text string
}

// snapshot copies the file between two writes: all of it has been synced.
func snapshot(t *testing.T, dir, path string) state {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return state{raw, snapshotOf(t, dir, raw)}
}

// snapshotOf opens an image as a restarted agent would.
func snapshotOf(t *testing.T, dir string, image []byte) string {
	t.Helper()
	path := filepath.Join(dir, "image.db")
	if err := os.WriteFile(path, image, 0o600); err != nil {
		t.Fatal(err)
	}
	db, err := open(path, maxFile)
	if err == nil {
		err = check(db, server)
		db.Close()
	}
	if err != nil {
		return fmt.Sprintf("unreadable: %v", err)
	}
	return contents(t, path)
}

// crash makes one of the files that a crash between two states can leave.
func crash(rng *rand.Rand, before, after []byte) (image []byte, acknowledged bool) {
	var data []int // pages that the write changed, without the meta pages
	for p := 2; p*pageSize < len(after); p++ {
		if !bytes.Equal(page(before, p), page(after, p)) {
			data = append(data, p)
		}
	}
	if rng.IntN(2) == 0 { // before the first sync
		image = bytes.Clone(before)
		if rng.IntN(2) == 0 && len(after) > len(before) {
			image = append(image, make([]byte, len(after)-len(before))...)
		}
		for _, p := range data {
			if (p+1)*pageSize > len(image) {
				continue
			}
			to := image[p*pageSize : (p+1)*pageSize]
			switch rng.IntN(4) {
			case 0: // not written
			case 1:
				copy(to, page(after, p))
			case 2: // torn
				for s := 0; s < pageSize; s += sectorSize {
					if rng.IntN(2) == 0 {
						copy(to[s:s+sectorSize], page(after, p)[s:])
					}
				}
			case 3: // allocated and never filled
				clear(to)
			}
		}
		return image, false
	}
	image = bytes.Clone(after)
	for p := range 2 {
		if bytes.Equal(page(before, p), page(after, p)) {
			continue
		}
		switch rng.IntN(3) {
		case 0: // not written
			copy(image[p*pageSize:], page(before, p))
		case 1: // torn inside the one sector that matters, as no disk should
			cut := 16 + rng.IntN(64)
			copy(image[p*pageSize+cut:(p+1)*pageSize], page(before, p)[cut:])
		case 2:
			acknowledged = true
		}
	}
	return image, acknowledged
}

func page(raw []byte, p int) []byte {
	if p*pageSize >= len(raw) {
		return nil
	}
	return raw[p*pageSize : min((p+1)*pageSize, len(raw))]
}
