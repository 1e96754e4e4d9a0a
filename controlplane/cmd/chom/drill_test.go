package main

import (
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	backupv1 "chom.dev/proto/gen/chom/backup/v1"
)

// TestEvidence: what a host found fits in a line each, and so does nothing.
func TestEvidence(t *testing.T) {
	begin := time.Unix(1700000000, 0)
	whole := &backupv1.Evidence{
		StartTime: timestamppb.New(begin), EndTime: timestamppb.New(begin.Add(90 * time.Second)), FileCount: 12, FileBytes: 2048,
		Pages: []*backupv1.Page{{Path: "/", HttpStatus: 200, Title: "Shop"}, {Path: "/about", HttpStatus: 500}},
	}
	for name, test := range map[string]struct {
		evidence          *backupv1.Evidence
		took, files, page string
	}{
		"nothing":  {nil, "", "", ""},
		"a site":   {whole, "1m30s", "12, 2 KiB", "200 Shop"},
		"no title": {&backupv1.Evidence{Pages: []*backupv1.Page{{HttpStatus: 403}}}, "0s", "0, empty", "403 without a title"},
		"no page":  {&backupv1.Evidence{Pages: []*backupv1.Page{{Problem: "connection refused"}}}, "0s", "0, empty", "0 connection refused"},
	} {
		if a, b, c := took(test.evidence), restoredFiles(test.evidence), homePage(test.evidence); a != test.took || b != test.files || c != test.page {
			t.Errorf("%s: %q, %q, %q", name, a, b, c)
		}
	}
}
