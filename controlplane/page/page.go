// Package page is how lists are read: a page at a time, each page beginning after the last item of the one before. It
// makes and checks page tokens, and knows nothing of what is listed.
//
// A token is not a right. It holds the last item's id and a mark of the query that it continues; every query still filters by
// what the caller may see. The mark is there so that a token which is used with another list, another organization or another
// filter is refused instead of skipping items.
package page

import (
	"crypto/sha256"
	"encoding/base64"
	"slices"
	"strings"

	"github.com/google/uuid"

	"chom.dev/controlplane/fault"
)

// DefaultSize is how many items a page has when the caller names no size.
const DefaultSize = 50

// MaxSize bounds what one request can make the control plane read.
const MaxSize = 500

// Size is the wanted number of items: DefaultSize for 0. It refuses what is below 0 or above MaxSize.
func Size(wanted int32) (int, error) {
	switch {
	case wanted < 0 || wanted > MaxSize:
		return 0, fault.Invalid("page_size", "must be 0 to 500")
	case wanted == 0:
		return DefaultSize, nil
	}
	return int(wanted), nil
}

// Query names a list: what is listed, for whom, and by which filters. Two lists that differ in anything but the page must
// have different queries.
type Query []string

const markSize = 8 // bytes; it catches mistakes, an attacker gains nothing from it

func (q Query) mark() []byte {
	// Parts are separated by a byte that no id or filter holds.
	sum := sha256.Sum256([]byte(strings.Join(q, "\x00")))
	return sum[:markSize]
}

var errToken = fault.Invalid("page_token", "must be the next_page_token of the page before, with all other fields unchanged")

// Token continues the list after the item with this id, a UUID.
func (q Query) Token(last string) string {
	id, err := uuid.Parse(last)
	if err != nil {
		return "" // no id of ours: the list ends here
	}
	return base64.RawURLEncoding.EncodeToString(append(q.mark(), id[:]...))
}

// After is the id that a token continues after; empty for an empty token, the first page. It refuses what was not made by
// Token of the same query.
func (q Query) After(token string) (string, error) {
	if token == "" {
		return "", nil
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(token)
	if err != nil || len(b) != markSize+16 || string(b[:markSize]) != string(q.mark()) {
		return "", errToken
	}
	return uuid.UUID(b[markSize:]).String(), nil
}

// TokenAt continues a list that is not in the order of ids after a position, which the list alone can read: at most 290 bytes, so
// that the token fits into the 400 characters that requests take.
func (q Query) TokenAt(position []byte) string {
	return base64.RawURLEncoding.EncodeToString(append(q.mark(), position...))
}

// AfterPosition is the position that a token of TokenAt continues after; nil for an empty token. It refuses tokens of other queries;
// a caller may have made up the position all the same.
func (q Query) AfterPosition(token string) ([]byte, error) {
	if token == "" {
		return nil, nil
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(token)
	if err != nil || len(b) <= markSize || string(b[:markSize]) != string(q.mark()) {
		return nil, errToken
	}
	return b[markSize:], nil
}

// Next is the token of the following page: items were read with a limit of size+1, and last is the id of the size-th.
func (q Query) Next(read, size int, last func() string) string {
	if read <= size {
		return ""
	}
	return q.Token(last())
}

// Words are the values of a filter as a query takes them: in order, so that two lists of the same are the same, each with
// a space on both sides, so that a row matches by
//
//	$1 = '' OR $1 LIKE '% ' || column || ' %'
//
// Empty for none. The words must be of an enum's own: no space, no stranger's text.
func Words[T ~string](values []T) string {
	if len(values) == 0 {
		return ""
	}
	sorted := slices.Sorted(slices.Values(values))
	text := " "
	for _, value := range sorted {
		text += string(value) + " "
	}
	return text
}
