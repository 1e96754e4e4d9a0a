// Package page reads what a site's visitors are shown.
package page

import (
	"html"
	"regexp"
	"strings"
)

var titleElement = regexp.MustCompile(`(?is)<title[^>]*>(.*?)</title>`)

// head is how far a page is looked through for its title.
const head = 256 << 10

// Title is the text of a page's title element; empty when it has none.
func Title(body []byte) string {
	m := titleElement.FindSubmatch(body[:min(len(body), head)])
	if m == nil {
		return ""
	}
	return strings.Join(strings.Fields(html.UnescapeString(string(m[1]))), " ")
}
