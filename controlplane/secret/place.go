// Package secret keeps what the database must not show: it is encrypted under a key from outside, for the one place in which
// it stands.
package secret

// Place is where a secret stands. What was sealed for one opens in no other.
type Place struct {
	// Organization that it belongs to, a UUID; the nil UUID for the platform's and for people's own.
	Organization string
	// Table, Column and Row (its id) hold the sealed bytes.
	Table, Column, Row string
}

// Column holds sealed bytes, which a change of keys seals anew.
type Column struct {
	Table, Column string
	// Organization and Row are the columns that hold the organization's and the row's id.
	Organization, Row string
}
