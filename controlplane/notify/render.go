package notify

import (
	"bytes"
	"embed"
	"errors"
	"fmt"
	"html/template"
	"maps"
	"net/url"
	"slices"
	"strings"
	texttemplate "text/template"
)

//go:embed templates
var files embed.FS

// templates are all of them, parsed, by name.
type templates struct {
	text map[string]*texttemplate.Template
	html map[string]*template.Template
}

// rendered is a mail as it is read.
type rendered struct{ subject, text, html string }

type button struct{ Link, Label string }

func parseTemplates() (*templates, error) {
	all := &templates{map[string]*texttemplate.Template{}, map[string]*template.Template{}}
	functions := map[string]any{"button": func(link, label string) button { return button{link, label} }}
	for name := range catalog {
		text, err := texttemplate.New("layout").Option("missingkey=error").Funcs(functions).
			ParseFS(files, "templates/layout.txt", "templates/"+name+".txt")
		if err != nil {
			return nil, fmt.Errorf("template %s: %w", name, err)
		}
		html, err := template.New("layout").Option("missingkey=error").Funcs(functions).
			ParseFS(files, "templates/layout.html", "templates/"+name+".html")
		if err != nil {
			return nil, fmt.Errorf("template %s: %w", name, err)
		}
		all.text[name], all.html[name] = text, html
	}
	return all, nil
}

// render fills a template with values that check gave.
func (t *templates) render(name string, values map[string]string, public *url.URL) (rendered, error) {
	text, html := t.text[name], t.html[name]
	if text == nil || html == nil {
		return rendered{}, errTemplate
	}
	shown := maps.Clone(values)
	if shown == nil {
		shown = map[string]string{}
	}
	shown["public_url"], shown["public_host"] = public.String(), public.Host
	var out bytes.Buffer
	if err := text.ExecuteTemplate(&out, "subject", shown); err != nil {
		return rendered{}, fmt.Errorf("render %s: %w", name, err)
	}
	r := rendered{subject: clean(out.String())}
	shown["subject"] = r.subject
	out.Reset()
	if err := text.ExecuteTemplate(&out, "mail", shown); err != nil {
		return rendered{}, fmt.Errorf("render %s: %w", name, err)
	}
	r.text = strings.TrimSpace(out.String()) + "\n"
	out.Reset()
	if err := html.ExecuteTemplate(&out, "mail", shown); err != nil {
		return rendered{}, fmt.Errorf("render %s: %w", name, err)
	}
	r.html = out.String()
	return r, nil
}

// Templates are the names of all, in order.
func Templates() []string { return slices.Sorted(maps.Keys(catalog)) }

// Preview shows a template with sample values, as it would be mailed from a control plane at a public URL.
func Preview(name, publicURL string, html bool) (string, error) {
	of, ok := catalog[name]
	if !ok {
		return "", fmt.Errorf("there is no template %q: %s", name, strings.Join(Templates(), ", "))
	}
	public, err := url.Parse(publicURL)
	if err != nil || public.Host == "" {
		return "", errors.New("the public URL must be http(s)://HOST or http(s)://HOST:PORT")
	}
	samples := map[string]string{}
	for _, value := range of.values {
		sample := meanings[value].sample
		if meanings[value].kind == link {
			sample = public.JoinPath("/").String() + strings.TrimPrefix(sample, "/")
		}
		if samples[value], err = show(meanings[value].kind, sample, public); err != nil {
			return "", fmt.Errorf("sample of %q: %w", value, err)
		}
	}
	all, err := parseTemplates()
	if err != nil {
		return "", err
	}
	r, err := all.render(name, samples, public)
	if err != nil {
		return "", err
	}
	if html {
		return r.html, nil
	}
	return "Subject: " + r.subject + "\n\n" + r.text, nil
}
