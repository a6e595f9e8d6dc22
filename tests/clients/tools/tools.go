// Package tools has no code: go.mod names what is built from here.
package tools
