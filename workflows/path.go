package workflows

import (
	"slices"
	"strconv"
	"strings"
)

// Join gives the path of a key below a path: "spec.states" and "build" make
// "spec.states.build". A key that is not a plain word is put in brackets and
// quotes, so that every path names one place: spec.tasks["verify.test"].
func Join(path, key string) string {
	plain := key != ""
	for i := range len(key) {
		c := key[i]
		plain = plain && (c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '_' || c == '-')
	}
	switch {
	case !plain:
		return path + "[" + strconv.Quote(key) + "]"
	case path == "":
		return key
	}
	return path + "." + key
}

// Parent gives the path without its last key, "" at the top.
func Parent(path string) string {
	if strings.HasSuffix(path, "]") {
		depth := strings.LastIndex(path, "[")
		if strings.HasSuffix(path, "\"]") {
			depth = strings.LastIndex(path[:len(path)-2], "[\"")
		}
		return path[:max(depth, 0)]
	}
	return path[:max(strings.LastIndexByte(path, '.'), 0)]
}

// calledElsewhere are words of other tools for what has another name here.
var calledElsewhere = map[string]string{"success": "succeeded", "ok": "succeeded", "failure": "failed", "error": "failed", "timeout": "timedOut",
	"canceled": "cancelled", "unknown": "inconclusive", "onfailure": "onFail", "onerror": "onFail", "onsuccess": "next", "then": "next",
	"if": "when", "condition": "when", "uses": "task", "retries": "retry", "approvers": "quorum", "env": "environment", "foreach": "forEach",
	"matrix": "forEach", "sleep": "wait", "rollback": "compensate", "cleanup": "finally"}

// Nearest gives the name that text was probably meant to be, or "" when none
// is close.
func Nearest(text string, names []string) string {
	if len(text) > 64 {
		return ""
	}
	if word := calledElsewhere[strings.ToLower(strings.ReplaceAll(text, "_", ""))]; slices.Contains(names, word) {
		return word
	}
	best, least := "", 1+min(len(text)/3, 2) // at most a third of a short word may differ
	for _, name := range names {
		if strings.EqualFold(name, text) {
			return name
		}
		if d := distance(text, name); d < least {
			best, least = name, d
		}
	}
	return best
}

// distance counts the insertions, deletions, replacements and swaps of
// neighbours that make b out of a.
func distance(a, b string) int {
	before, row, next := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		next[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			next[j+1] = min(row[j]+cost, row[j+1]+1, next[j]+1)
			if i > 0 && j > 0 && a[i] == b[j-1] && a[i-1] == b[j] {
				next[j+1] = min(next[j+1], before[j-1]+1)
			}
		}
		before, row, next = row, next, before
	}
	return row[len(b)]
}
