package main

import (
	"bytes"
	_ "embed"
	"errors"
	"fmt"
	"html"
	"io"
	"io/fs"
	"os"
	"strings"
	"syscall"
)

// pageFrame is the first page with TITLE in place of the title. It stands on
// its own: no script, no style or font from elsewhere.
//
//go:embed page.html
var pageFrame string

const titleMark = "TITLE"

func renderPage(title string) []byte {
	return []byte(strings.ReplaceAll(pageFrame, titleMark, escapeTitle(title)))
}

func escapeTitle(title string) string { return html.EscapeString(title) }

// maxPage is well above the frame with the longest title, twice and escaped.
const maxPage = 64 << 10

// readPage returns the title of the page if the page is one that renderPage
// made. One changed byte makes it the customer's.
func readPage(public *os.Root) (title string, ours bool, err error) {
	info, err := public.Lstat(indexFile)
	if errors.Is(err, fs.ErrNotExist) {
		return "", false, nil
	}
	if err != nil {
		return "", false, fmt.Errorf("look at page: %w", err)
	}
	if !info.Mode().IsRegular() || info.Size() > maxPage {
		return "", false, nil
	}
	// What it is may change between two looks: don't follow, don't wait.
	f, err := public.OpenFile(indexFile, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ELOOP) || errors.Is(err, fs.ErrPermission) {
		return "", false, nil
	}
	if err != nil {
		return "", false, fmt.Errorf("open page: %w", err)
	}
	defer f.Close()
	content, err := io.ReadAll(io.LimitReader(f, maxPage+1))
	if err != nil {
		return "", false, fmt.Errorf("read page: %w", err)
	}
	_, rest, _ := strings.Cut(string(content), "<title>")
	escaped, _, found := strings.Cut(rest, "</title>")
	title = html.UnescapeString(escaped)
	if !found || !bytes.Equal(content, renderPage(title)) {
		return "", false, nil
	}
	return title, true, nil
}
