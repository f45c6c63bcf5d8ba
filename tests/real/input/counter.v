module counter(input clk, input rst, input [1:0] step, output reg [7:0] q, output full);
  always @(posedge clk) if (rst) q <= 0; else q <= q + {step, 1'b1};
  assign full = &q;
endmodule
