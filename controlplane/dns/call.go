package dns

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
)

// maxAnswer bounds what is read of an answer: a zone of maxRecords, with its signatures.
const maxAnswer = 16 << 20

// fixedClient calls services whose addresses are fixed here. A redirect would carry the token elsewhere: none is followed.
func fixedClient() *http.Client {
	return &http.Client{Timeout: callWithin, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

// askJSON makes one call of an API that speaks JSON. Of a refusal only its field error or message is taken: what another kind of
// server answers is not shown.
func askJSON(ctx context.Context, client *http.Client, method, url string, header http.Header, body, into any) error {
	var text []byte
	if body != nil {
		var err error
		if text, err = json.Marshal(body); err != nil {
			return err
		}
	}
	request, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader(text))
	if err != nil {
		return err
	}
	request.Header = header
	request.Header.Set("Content-Type", "application/json")
	answer, err := client.Do(request)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	decode := json.NewDecoder(io.LimitReader(answer.Body, maxAnswer))
	if answer.StatusCode/100 != 2 {
		var refusal struct{ Error, Message string }
		if decode.Decode(&refusal) != nil || refusal.Error+refusal.Message == "" {
			return answered(fmt.Sprintf("it answered %d", answer.StatusCode))
		}
		return answered(fmt.Sprintf("it answered %d: %s", answer.StatusCode, cmp.Or(refusal.Error, refusal.Message)))
	}
	if into == nil {
		return nil
	}
	if err := decode.Decode(into); err != nil {
		var said answered
		if errors.As(err, &said) {
			return said
		}
		return answered("its answer is not understood")
	}
	return nil
}
