"""Fusion modes that nobody tuned the compiler for: what a researcher may write, with a width that heads and tokens divide."""

from __future__ import annotations

UNUSUAL = {
    "linear_attention": """\
axes: {a: 4, e: dim // 4, f: dim // 4, i: dim, j: dim}
params:
  query: {module: Linear, weight: "Q[(a e),j]"}
  key: {module: Linear, weight: "K[(a e),j]"}
  value: {module: Linear, weight: "V[(a e),j]"}
  output: {module: Linear, weight: "U[i,(a f)]", bias: "d[i]"}
math: |
  q[m,a,e]  = softmax[e](sum[j](Q[a,e,j] * h[m,j]))
  k[m,a,e]  = exp(sum[j](K[a,e,j] * h[m,j]))
  v[m,a,e]  = sum[j](V[a,e,j] * h[m,j])
  kv[a,e,f] = sum[m](k[m,a,e] * v[m,a,f])
  z[m,a]    = sum[e](q[m,a,e] * sum[m](k[m,a,e]))
  out[m,i]  = sum[a,f](U[i,a,f] * (sum[e](q[m,a,e] * kv[a,e,f]) / z[m,a])) + d[i]
out: "out[b,(m i)]"
""",
    "tokens_of_all_modalities": """\
axes: {p: 4, q: 4, y: dim // 4, x: dim // 4, t: modalities}
features: "h[m,b,(p y)]"
params:
  keys: {module: Linear, weight: "K[x,y]"}
  values: {module: Linear, per: m, weight: "V[m,x,y]"}
math: |
  k[m,p,x]   = sum[y](K[x,y] * h[m,p,y])
  v[m,p,x]   = sum[y](V[m,x,y] * h[m,p,y])
  w[m,p,t,q] = softmax[t,q](sum[x](h[m,p,x] * k[t,q,x]) / sqrt(size[x]))
  z[m,p,x]   = sum[t,q](w[m,p,t,q] * v[t,q,x])
  out[p,x]   = max[m](z[m,p,x] + h[m,p,x])
out: "out[b,(p x)]"
""",
    "mixer": """\
axes: {p: 8, r: 8, y: dim // 8, x: dim // 8}
features: "h[m,b,(p y)]"
params:
  tokens: {module: Linear, weight: "T[r,p]", bias: "c[r]"}
  channels: {module: Linear, weight: "C[x,y]", bias: "d[x]"}
math: |
  u[m,r,y] = gelu(sum[p](T[r,p] * h[m,p,y]) + c[r]) + h[m,r,y]
  z[m,r,x] = gelu(sum[y](C[x,y] * u[m,r,y]) + d[x]) + u[m,r,x]
  out[r,x] = mean[m](z[m,r,x])
out: "out[b,(r x)]"
""",
    "standardised": """\
axes: {i: dim, k: 32}
params:
  map: {module: Linear, weight: "W[k,i]", bias: "c[k]"}
math: |
  x[m,i] = layernorm[m](h[m,i])
  z[m,k] = relu(sum[i](W[k,i] * x[m,i]) + c[k])
  out[k] = mean[m](z[m,k]) + max[m,i](x[m,i])
out: "out[b,k]"
""",
    "block_terms": """\
axes: {n: 6, e: 8, k: 16, r: 16, i: dim}
params:
  left: {module: Linear, weight: "A[(n k),i]"}
  right: {module: Linear, weight: "B[(n r),i]"}
  core: {tensor: "G[n,e,k,r]", init: normal, std: 0.1}
  output: {module: Linear, weight: "U[i,(n e)]"}
math: |
  x[n,k] = sum[i](A[n,k,i] * h[0,i])
  y[n,r] = tanh(sum[i](B[n,r,i] * mean[m](h[m,i])))
  z[n,e] = sum[k,r](G[n,e,k,r] * x[n,k] * y[n,r])
  out[i] = sum[n,e](U[i,n,e] * z[n,e])
""",
    "pairwise_distances": """\
axes: {i: dim, j: dim, t: modalities}
params:
  map: {module: Linear, per: m, weight: "W[m,i,j]"}
math: |
  x[m,i] = sum[j](W[m,i,j] * h[m,j])
  w[m,t] = softmax[t](-sum[i]((x[m,i] - x[t,i]) ** 2) / size[i])
  out[i] = mean[m](sum[t](w[m,t] * h[t,i]) - h[m,i])
weights: "w[m,b,t]"
""",
    "outer_moments": """\
axes: {i: dim, k: 16, r: 16}
params:
  left: {module: Linear, weight: "A[k,i]"}
  right: {module: Linear, per: m, weight: "B[m,r,i]"}
math: |
  x[m,k]   = tanh(sum[i](A[k,i] * h[m,i]))
  y[m,r]   = tanh(sum[i](B[m,r,i] * h[m,i]))
  c[k,r]   = mean[m](x[m,k] * y[m,r]) - mean[m](x[m,k]) * mean[m](y[m,r])
  out[k,r] = c[k,r] * rsqrt(sum[k,r](c[k,r] ** 2) + 1e-6)
out: "out[b,(k r)]"
""",
    "codebook": """\
axes: {n: 8, i: dim}
params:
  centres: {tensor: "C[n,i]", init: normal, std: 1}
math: |
  a[m,n]   = softmax[n](-sum[i]((C[n,i] - h[m,i]) ** 2) / size[i])
  v[n,i]   = sum[m](a[m,n] * (h[m,i] - C[n,i]))
  out[n,i] = v[n,i] * rsqrt(sum[i](v[n,i] ** 2) + 1e-6)
out: "out[b,(n i)]"
weights: "a[m,b,n]"
""",
    "memory_slots": """\
axes: {n: 4, a: 4, e: dim // 4, i: dim, j: dim}
params:
  slots: {tensor: "S[n,a,e]", init: normal, std: 1}
  key: {module: Linear, weight: "K[(a e),j]"}
  value: {module: Linear, weight: "V[(a e),j]"}
  output: {module: Linear, weight: "U[i,(a e)]", bias: "d[i]"}
math: |
  k[m,a,e] = sum[j](K[a,e,j] * h[m,j])
  v[m,a,e] = sum[j](V[a,e,j] * h[m,j])
  w[n,m,a] = softmax[m](sum[e](S[n,a,e] * k[m,a,e]) / sqrt(size[e]))
  z[n,a,e] = sum[m](w[n,m,a] * v[m,a,e])
  g[n,a]   = softmax[n](sum[e](z[n,a,e] * S[n,a,e]))
  out[i]   = sum[a,e](U[i,a,e] * sum[n](g[n,a] * z[n,a,e])) + d[i]
""",
    "polynomial": """\
axes: {k: 32, i: dim, f: dim + 1}
params:
  factors: {module: Linear, per: m, weight: "W[m,k,f]"}
  output: {module: Linear, weight: "U[i,k]", bias: "d[i]"}
math: |
  x[m,f] = concat[f: i, 1](h[m,i], 1)
  y[k]   = prod[m](sum[f](W[m,k,f] * x[m,f]))
  out[i] = sum[k](U[i,k] * y[k]) + d[i]
""",
}


def unusual_spec(name: str) -> str:
    """The text of a spec."""
    return f"version: 1\nmode: {name}\nsummary: A mode of a test.\nmodalities: '>=2'\n{UNUSUAL[name]}"
