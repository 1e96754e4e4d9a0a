package archive

import (
	"archive/tar"
	"io/fs"
	"strings"
	"unicode"
	"unicode/utf8"
)

const (
	maxName      = 1024 // bytes of a whole name; PATH_MAX less a generous tree
	maxComponent = 255  // NAME_MAX of every file system in use
	maxDepth     = 32   // real applications stay below 15
)

// plainEntry refuses everything but an ordinary file or folder.
func plainEntry(h *tar.Header) error {
	switch h.Typeflag {
	case tar.TypeReg, tar.TypeDir:
	default:
		return refuse("%q is neither a file nor a folder (tar type %q)", clip(h.Name), h.Typeflag)
	}
	if h.Linkname != "" {
		return refuse("%q carries a link", clip(h.Name))
	}
	if h.Mode&0o7000 != 0 {
		return refuse("%q is setuid, setgid or sticky", clip(h.Name))
	}
	if h.Size < 0 || h.Typeflag == tar.TypeDir && h.Size != 0 {
		return refuse("%q has an impossible size", clip(h.Name))
	}
	for key := range h.PAXRecords {
		// Extended attributes carry capabilities; sparse files claim sizes
		// that nobody packed.
		if strings.HasPrefix(key, "SCHILY.") || strings.HasPrefix(key, "LIBARCHIVE.") || strings.HasPrefix(key, "GNU.sparse") {
			return refuse("%q carries the extended attribute %q", clip(h.Name), clip(key))
		}
	}
	return nil
}

// plainName accepts relative names of printable characters without "." and
// ".." components.
func plainName(name string) error {
	switch {
	case len(name) > maxName:
		return refuse("a name is longer than %d bytes", maxName)
	case !utf8.ValidString(name):
		return refuse("a name is not UTF-8")
	case strings.ContainsFunc(name, func(r rune) bool { return r == '\\' || !unicode.IsPrint(r) }):
		return refuse("the name %q holds a backslash or a control character", name)
	case !fs.ValidPath(name) || name == ".":
		return refuse("the name %q is not plain and relative", name)
	case strings.Count(name, "/") >= maxDepth:
		return refuse("the name %q is nested deeper than %d", name, maxDepth)
	}
	for component := range strings.SplitSeq(name, "/") {
		if len(component) > maxComponent {
			return refuse("a component of a name is longer than %d bytes", maxComponent)
		}
	}
	return nil
}

// clip keeps a hostile name from filling an error; %q takes care of the rest.
func clip(s string) string {
	if len(s) > 200 {
		return s[:200] + "..."
	}
	return s
}
