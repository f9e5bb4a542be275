package gitsrc

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/mail"
	"slices"
	"strings"
)

// describe fills in what the history tells about c.
func (g *git) describe(ctx context.Context, c *Checkout, since []string) error {
	subject, err := g.run(ctx, "log", "-1", "--format=%s", "--end-of-options", c.Commit, "--")
	if err != nil {
		return g.failed(err)
	}
	c.Subject = strings.ToValidUTF8(strings.TrimSpace(subject), "?")
	authors, commits, err := g.newSinceAny(ctx, c.Commit, since)
	if ctx.Err() != nil {
		return errors.Join(err, context.Cause(ctx))
	}
	if err != nil { // the checkout is good, and who needs the authors must not believe there were none
		c.Unknown = fmt.Sprintf("the authors of %s since %s are not known: %v", short(c.Commit), strings.Join(named(since), ", "), err)
		fmt.Fprintln(g.note, c.Unknown)
		return nil
	}
	c.Authors, c.Commits = authors, commits
	return nil
}

// named are the commits of a list that are named at all.
func named(commits []string) []string {
	list := slices.DeleteFunc(slices.Clone(commits), func(c string) bool { return c == "" })
	slices.Sort(list)
	return slices.Compact(list)
}

// newSinceAny gives the authors of the commits that commit has and one of since
// has not, and how many commits are new to the one that lacks most.
func (g *git) newSinceAny(ctx context.Context, commit string, since []string) (authors []string, commits int, err error) {
	list := named(since)
	if len(list) == 0 {
		return g.newSince(ctx, commit, "")
	}
	for _, s := range list {
		found, n, err := g.newSince(ctx, commit, s)
		if err != nil {
			return nil, 0, err
		}
		authors, commits = append(authors, found...), max(commits, n)
	}
	slices.Sort(authors)
	return slices.Compact(authors), commits, nil
}

// newSince gives the authors of the commits that commit has and since has
// not, and how many commits these are.
func (g *git) newSince(ctx context.Context, commit, since string) (authors []string, commits int, err error) {
	if since == "" {
		authors, _, err = g.authors(ctx, "-1", commit)
		return authors, 1, err
	}
	if since, err = g.resolve(ctx, since); err != nil {
		return nil, 0, err
	}
	if since, err = g.fetch(ctx, since, true); err != nil {
		return nil, 0, err
	}
	if authors, commits, err = g.authors(ctx, since+".."+commit); err == nil && commits == 0 {
		authors, _, err = g.authors(ctx, "-1", commit)
	}
	return authors, commits, err
}

func (g *git) authors(ctx context.Context, args ...string) ([]string, int, error) {
	const format = "%H%x00%ae%x00%(trailers:key=Co-authored-by,valueonly=true,unfold=true,separator=%x01)%x02"
	out, err := g.run(ctx, append([]string{"log", "--no-mailmap", "--format=" + format}, append(args, "--")...)...)
	if err != nil {
		return nil, 0, g.failed(err)
	}
	found := map[string]bool{}
	entries := strings.Split(strings.TrimSpace(out), "\x02")
	entries = entries[:len(entries)-1]
	for _, entry := range entries {
		parts := strings.SplitN(strings.TrimSpace(entry), "\x00", 3)
		if len(parts) != 3 {
			return nil, 0, errors.New("git log gave an entry that cannot be read")
		}
		author := address(parts[1])
		if author == "" {
			return nil, 0, fmt.Errorf("commit %s has no author's address", short(parts[0]))
		}
		found[author] = true
		for co := range strings.SplitSeq(parts[2], "\x01") {
			if a := coAuthor(co); a != "" {
				found[a] = true
			}
		}
	}
	return slices.Sorted(maps.Keys(found)), len(entries), nil
}

// coAuthor is the address in "Name <address>".
func coAuthor(trailer string) string {
	if a, err := mail.ParseAddress(strings.TrimSpace(trailer)); err == nil {
		return address(a.Address)
	}
	_, rest, ok := strings.Cut(trailer, "<")
	if !ok {
		return ""
	}
	in, _, _ := strings.Cut(rest, ">")
	return address(in)
}

func address(s string) string {
	return strings.ToValidUTF8(strings.ToLower(strings.TrimSpace(s)), "?")
}

func short(commit string) string { return commit[:min(12, len(commit))] }
