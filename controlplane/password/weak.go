package password

import (
	_ "embed"
	"strings"
	"sync"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"

	"chom.dev/controlplane/fault"
)

// Limits of a password in characters. Long ones are welcome: a sentence is easier to keep in mind than a riddle. There are
// no rules about digits and signs, which only make people write "Password1!".
const (
	MinLength = 10
	MaxLength = 128
)

// common holds the commonest passwords of at least MinLength characters, in lower case. Most are from the frequency list of
// zxcvbn (Copyright (c) 2012-2016 Dan Wheeler and Dropbox, Inc., MIT licence).
//
//go:embed common.txt
var commonText string

var common = sync.OnceValue(func() map[string]bool {
	all := map[string]bool{}
	for line := range strings.Lines(commonText) {
		all[strings.TrimSuffix(line, "\n")] = true
	}
	return all
})

// Check says fault.Invalid about the field when somebody with this e-mail address must not use the password.
func Check(field, password, email string) error {
	password = normal(password)
	lower := strings.ToLower(password)
	local, _, _ := strings.Cut(email, "@")
	first, _ := utf8.DecodeRuneInString(lower)
	switch n := utf8.RuneCountInString(password); {
	case !utf8.ValidString(password):
		return fault.Invalid(field, "must be valid UTF-8")
	case n < MinLength:
		return fault.Invalid(field, "must have at least 10 characters")
	case n > MaxLength:
		return fault.Invalid(field, "must have at most 128 characters")
	case common()[lower]:
		return fault.Invalid(field, "is one of the commonest passwords: anybody would try it")
	case lower == strings.ToLower(email), lower == strings.ToLower(local):
		return fault.Invalid(field, "must not be the e-mail address")
	case strings.Trim(lower, string(first)) == "":
		return fault.Invalid(field, "must not be one character over and over")
	}
	return nil
}

// normal is the one form of a text that keyboards may send in several: an accented letter as one character or as two.
func normal(password string) string { return norm.NFC.String(password) }
