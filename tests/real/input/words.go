// Counts words, hashes in parallel, compresses and lists a directory.
package main

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"sort"
	"strings"
	"sync"
)

func main() {
	data, err := os.ReadFile(os.Args[1])
	if err != nil {
		fmt.Println(err)
		os.Exit(3)
	}
	words := map[string]int{}
	for _, word := range strings.FieldsFunc(strings.ToLower(string(data)), func(r rune) bool { return r < 'a' || r > 'z' }) {
		words[word]++
	}
	keys := []string{}
	for word := range words {
		keys = append(keys, word)
	}
	sort.Slice(keys, func(i, j int) bool {
		a, b := keys[i], keys[j]
		return words[a] > words[b] || words[a] == words[b] && a < b
	})
	for _, word := range keys[:5] {
		fmt.Println(words[word], word)
	}
	text, _ := json.Marshal(words)
	var group sync.WaitGroup
	sums := make([]string, 8)
	for i := range sums {
		group.Add(1)
		go func() {
			defer group.Done()
			sums[i] = fmt.Sprintf("%x", sha256.Sum256(append(text, byte(i))))
		}()
	}
	group.Wait()
	fmt.Println(strings.Join(sums, "\n"))
	var packed bytes.Buffer
	writer := gzip.NewWriter(&packed)
	writer.Write(text)
	writer.Close()
	reader, _ := gzip.NewReader(&packed)
	again, _ := io.ReadAll(reader)
	fmt.Println(bytes.Equal(again, text))
	os.Mkdir("/out/made", 0o755)
	os.WriteFile("/out/made/file", text, 0o644)
	entries, err := os.ReadDir("/out/made")
	fmt.Println(len(entries), entries[0].Name(), err)
	_, err = os.ReadFile("/out/none")
	fmt.Println(err)
	os.RemoveAll("/out/made")
}
