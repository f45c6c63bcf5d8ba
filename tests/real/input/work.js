// A parser, classes, generators, big integers, regular expressions and sorting.
class Parser {
  constructor(text) { this.tokens = text.match(/\d+|[-+*\/()]/g); this.at = 0; }
  peek() { return this.tokens[this.at]; }
  factor() {
    const token = this.tokens[this.at++];
    if (token !== "(") return BigInt(token);
    const value = this.sum();
    this.at++;
    return value;
  }
  product() {
    let value = this.factor();
    while (this.peek() === "*") { this.at++; value *= this.factor(); }
    return value;
  }
  sum() {
    let value = this.product();
    while (this.peek() === "+" || this.peek() === "-") {
      value = this.tokens[this.at++] === "+" ? value + this.product() : value - this.product();
    }
    return value;
  }
}
function* collatz(n) { while (n !== 1) { yield n; n = n % 2 ? 3 * n + 1 : n / 2; } }
print(new Parser("(12345678901234567890+1)*(98765432109876543210-7)*3").sum());
print([...collatz(97)].length, Math.max(...collatz(97)));
const words = "the quick brown fox jumps over the lazy dog".split(" ");
print(JSON.stringify(words.map((word, i) => ({ word, i })).sort((a, b) => a.word < b.word ? -1 : 1)));
const map = new Map();
for (let i = 0; i < 200000; i++) map.set(i % 977, (map.get(i % 977) || 0) + i);
print([...map.values()].reduce((a, b) => a + b), map.size);
print("2024-02-29".replace(/(?<y>\d+)-(?<m>\d+)-(?<d>\d+)/, "$<d>.$<m>.$<y>"), Math.PI.toFixed(10));
try { null.x; } catch (error) { print(error.name, error.message); }
