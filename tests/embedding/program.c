// SPDX-License-Identifier: BSD-3-Clause
// One training step and what stands around it, in C99. Prints numbers that the test compares with bf.kernels.
#include <bpfree/bpfree.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { kBatch = 6, kIn = 37, kHidden = 40, kOutputs = 3 };

static void check(bpfree_status status) {
  if (status == BPFREE_OK) return;
  fprintf(stderr, "status %d: %s\n", (int)status, bpfree_last_error());
  exit(1);
}

static void print(const char* name, const void* values, size_t n) {
  const unsigned char* bytes = values;
  size_t i;
  printf("%s ", name);
  for (i = 0; i < n; ++i) printf("%02x", bytes[i]);
  printf("\n");
}

static void refusals(void) {
  float two[2] = {7, 7}, one[1] = {1}, outputs[2] = {1, 2};
  int32_t label = 0;
  bpfree_optimizer optimizer;
  bpfree_forward_forward options;
  bpfree_local_loss local;
  bpfree_noise noise;
  uint32_t members[1] = {0};
  bpfree_ensemble ensemble;
  double nan[1], deviation[1] = {1};
  memset(nan, 0xff, sizeof nan);
  printf("status %d\n", (int)bpfree_dense_forward(two, NULL, NULL, two, NULL, 1, 2, 1, BPFREE_RELU, 0));
  printf("error %s\n", bpfree_last_error());
  printf("status %d\n", (int)bpfree_normal_f32(two, 2, 0, 0, 0, -3));
  printf("error %s\n", bpfree_last_error());
  printf("status %d\n", (int)bpfree_feedback_matrix(two, 1, 2, 0, 0, (bpfree_distribution)9, 1.0, 0));
  printf("error %s\n", bpfree_last_error());
  printf("status %d\n", (int)bpfree_product_f32(two, two, two, 1, 1, 1, 0, 0, 0));
  printf("error %s\n", bpfree_last_error());
  printf("status %d\n", (int)bpfree_product_f32(two, NULL, NULL, (size_t)-1, (size_t)-1, 1, 0, 0, 0));
  check(bpfree_optimizer_init(&optimizer, BPFREE_ADAM));
  printf("status %d\n",
         (int)bpfree_dense_update(two, NULL, NULL, NULL, two + 1, two + 1, 1, 1, 1, &optimizer, 0));
  printf("error %s\n", bpfree_last_error());
  check(bpfree_forward_forward_init(&options));
  options.temperature = -2;
  check(bpfree_optimizer_init(&optimizer, BPFREE_SGD));
  optimizer.momentum = 0;
  printf("status %d\n", (int)bpfree_forward_forward_update(two, NULL, NULL, NULL, NULL, NULL, two + 1, 1, 1, 1, 1,
                                                           &options, &optimizer, 0));
  printf("error %s\n", bpfree_last_error());
  printf("status %d\n", (int)bpfree_goodness(two, NULL, two + 1, 1, 1, (bpfree_goodness_kind)7, 0));
  printf("error %s\n", bpfree_last_error());
  check(bpfree_local_loss_init(&local));
  local.similarity_weight = 2;
  printf("status %d\n", (int)bpfree_local_loss_update(two, NULL, NULL, NULL, two + 1, NULL, NULL, NULL, NULL, one, one,
                                                      NULL, &label, NULL, NULL, 1, 1, 1, 1, &local, &optimizer, 0));
  printf("error %s\n", bpfree_last_error());
  check(bpfree_noise_init(&noise, 1));
  printf("status %d\n", (int)bpfree_perturb(two, one, members, 1, 1, -0.5, NULL, 0, &noise, 0));
  printf("error %s\n", bpfree_last_error());
  noise.antithetic = 1;
  printf("status %d\n", (int)bpfree_perturbation_gradient(two, nan, 0, 1, 2, NULL, 0, &noise, 0));
  printf("error %s\n", bpfree_last_error());
  printf("status %d\n", (int)bpfree_fitness_shaping(nan, NULL, nan, 1, 1, BPFREE_Z_SCORE, 0, 0));
  printf("error %s\n", bpfree_last_error());
  printf("status %d\n", (int)bpfree_low_rank_forward(two, one, 1, one, NULL, 0, 2, 1, 1, 1, 0.5, 0, BPFREE_RELU, &noise, 0));
  printf("error %s\n", bpfree_last_error());
  check(bpfree_ensemble_init(&ensemble, BPFREE_EKI));
  ensemble.dt = -4;
  printf("status %d\n", (int)bpfree_ensemble_update_f32(two, NULL, NULL, two, outputs, deviation, deviation, 1, NULL, NULL, 2, 1, 1,
                                                        &ensemble, 0));
  printf("error %s\n", bpfree_last_error());
  printf("unchanged %g %g\n", two[0], two[1]);
}

int main(void) {
  float x[kBatch * kIn], W[kIn * kHidden], b[kHidden], h[kBatch * kHidden], a[kBatch * kHidden];
  float e[kBatch * kOutputs], B[kOutputs * kHidden], delta[kBatch * kHidden], other[kBatch * kHidden];
  float m[kIn * kHidden], v[kIn * kHidden], mb[kHidden], vb[kHidden];
  float* of_W[2];
  float* of_b[2];
  double d[4], doubles[4], product[4];
  uint32_t bits[5];
  float gram[kBatch * kBatch];
  uint16_t halves[4] = {0x3f80, 0x4000, 0x4040, 0x4080};  // 1, 2, 3, 4
  float squares[4];
  float g[kBatch], r[kBatch];
  double loss, table[9];
  const double alpha_bar[4] = {0.0, 0.3, 0.7, 0.9};
  static float denoised[kBatch * kOutputs];
  float M[kHidden * kOutputs], c[kOutputs], mM[kHidden * kOutputs], vM[kHidden * kOutputs], mc[kOutputs], vc[kOutputs];
  float* of_M[2];
  float* of_c[2];
  int32_t labels[kBatch] = {0, 2, 1, 1, 0, 2};
  bpfree_optimizer optimizer;
  bpfree_forward_forward options;
  bpfree_local_loss local;
  bpfree_noise noise;
  bpfree_shape shapes[2] = {{2, {kIn, kHidden}}, {1, {kHidden}}};
  uint32_t members[1] = {5};
  float theta[(kIn + 1) * kHidden], gradient[(kIn + 1) * kHidden], population[2 * kBatch * kHidden];
  double utilities[4], fitness[4] = {1, 3, 3, 2};
  size_t lost = 9;
  bpfree_ensemble ensemble;
  float covariance[kIn * kOutputs], ensemble_x[kBatch * kIn];
  double misfit[kBatch], transform[kBatch * kBatch], rank, variance = 0.5;

  printf("version %s\nisa %s\n", bpfree_version(), bpfree_isa());
  check(bpfree_random_bits(bits, 5, 1, 2, 3, 0));
  print("bits", bits, sizeof bits);
  check(bpfree_normal_f64(d, 4, 5, 0, 0, 0));
  check(bpfree_uniform_f64(doubles, 4, 5, 0, 0, 0));
  check(bpfree_product_f64(product, d, doubles, 2, 2, 2, 0, 1, 0));
  print("product", product, sizeof product);
  check(bpfree_sign_f64(d, 4, 5, 0, 0, 0));
  print("signs", d, sizeof d);
  check(bpfree_product_bf16(squares, halves, halves, 2, 2, 2, 1, 0, 0));
  print("squares", squares, sizeof squares);

  check(bpfree_normal_f32(x, kBatch * kIn, 1, 0, 0, 0));
  check(bpfree_uniform_f32(W, kIn * kHidden, 2, 0, 0, 0));
  check(bpfree_sign_f32(b, kHidden, 3, 0, 0, 0));
  check(bpfree_normal_f32(e, kBatch * kOutputs, 4, 0, 0, 0));
  check(bpfree_product_f32(gram, x, x, kBatch, kIn, kBatch, 0, 1, 0));
  print("gram", gram, sizeof gram);
  check(bpfree_dense_forward(h, a, x, W, b, kBatch, kIn, kHidden, BPFREE_GELU, 0));
  print("h", h, sizeof h);
  print("a", a, sizeof a);
  check(bpfree_feedback_matrix(B, kOutputs, kHidden, 9, 1, BPFREE_NORMAL, 2.0, 0));
  check(bpfree_project_feedback(delta, e, B, a, kBatch, kOutputs, kHidden, BPFREE_GELU, 0));
  check(bpfree_project_random_feedback(other, e, a, kBatch, kOutputs, kHidden, 9, 1, BPFREE_NORMAL, 2.0, BPFREE_GELU, 0));
  print("delta", delta, sizeof delta);
  if (memcmp(delta, other, sizeof delta) != 0) return 2;
  memset(m, 0, sizeof m);
  memset(v, 0, sizeof v);
  memset(mb, 0, sizeof mb);
  memset(vb, 0, sizeof vb);
  of_W[0] = m;
  of_W[1] = v;
  of_b[0] = mb;
  of_b[1] = vb;
  check(bpfree_optimizer_init(&optimizer, BPFREE_ADAM));
  optimizer.learning_rate = 0.125;
  optimizer.weight_decay = 0.5;
  check(bpfree_dense_update(W, b, of_W, of_b, x, delta, kBatch, kIn, kHidden, &optimizer, 0));
  print("W", W, sizeof W);
  print("b", b, sizeof b);
  print("v", v, sizeof v);

  check(bpfree_goodness(g, r, x, kBatch, kIn, BPFREE_GOODNESS_MEAN, 0));
  print("g", g, sizeof g);
  print("r", r, sizeof r);
  check(bpfree_forward_forward_init(&options));
  options.temperature = 4;
  check(bpfree_forward_forward_update(W, b, of_W, of_b, h, &loss, x, kBatch / 2, kBatch, kIn, kHidden, &options, &optimizer, 0));
  print("loss", &loss, sizeof loss);
  print("h_ff", h, sizeof h);
  print("W_ff", W, sizeof W);
  print("b_ff", b, sizeof b);

  check(bpfree_normal_f32(M, kHidden * kOutputs, 6, 0, 0, 0));
  check(bpfree_sign_f32(c, kOutputs, 7, 0, 0, 0));
  memset(mM, 0, sizeof mM);
  memset(vM, 0, sizeof vM);
  memset(mc, 0, sizeof mc);
  memset(vc, 0, sizeof vc);
  of_M[0] = mM;
  of_M[1] = vM;
  of_c[0] = mc;
  of_c[1] = vc;
  check(bpfree_local_loss_init(&local));
  local.kind = BPFREE_LOCAL_PREDSIM;
  local.activation = BPFREE_GELU;
  check(bpfree_dense_forward(h, a, x, W, b, kBatch, kIn, kHidden, BPFREE_GELU, 0));
  check(bpfree_local_loss_update(W, b, of_W, of_b, M, c, of_M, of_c, &loss, x, h, a, labels, NULL, NULL, kBatch, kIn,
                                 kHidden, kOutputs, &local, &optimizer, 0));
  print("loss_local", &loss, sizeof loss);
  print("W_local", W, sizeof W);
  print("b_local", b, sizeof b);
  print("M", M, sizeof M);
  print("c", c, sizeof c);

  memset(mM, 0, sizeof mM);
  memset(vM, 0, sizeof vM);
  memset(mc, 0, sizeof mc);
  memset(vc, 0, sizeof vc);
  check(bpfree_noprop_update(M, c, of_M, of_c, denoised, &loss, h, NULL, labels, NULL, kBatch, kHidden, kOutputs, 0, 2.0,
                             &optimizer, 0));
  print("loss_noprop", &loss, sizeof loss);
  print("M_noprop", M, sizeof M);
  print("c_noprop", c, sizeof c);
  print("e_noprop", denoised, sizeof denoised);
  check(bpfree_denoising_head(denoised, NULL, denoised, M, labels, NULL, kBatch, kOutputs, kOutputs, 0.5, 0));
  print("e_head", denoised, sizeof denoised);
  check(bpfree_posterior_coefficients(table, alpha_bar, 3));
  print("table", table, sizeof table);

  memcpy(theta, W, sizeof W);
  memcpy(theta + kIn * kHidden, b, sizeof b);
  check(bpfree_noise_init(&noise, 9));
  noise.antithetic = 1;
  check(bpfree_perturb(theta, theta, members, 1, (kIn + 1) * kHidden, 0.5, shapes, 2, &noise, 0));
  print("member", theta, sizeof theta);
  check(bpfree_fitness_shaping(utilities, &lost, fitness, 4, 1, BPFREE_CENTERED_RANK, 0, 0));
  if (lost != 0) return 3;
  print("utilities", utilities, sizeof utilities);
  noise.kind = BPFREE_RADEMACHER;
  noise.generation = 1;
  check(bpfree_perturbation_gradient(gradient, utilities, 2, 4, (kIn + 1) * kHidden, NULL, 0, &noise, 0));
  print("gradient", gradient, sizeof gradient);
  noise.kind = BPFREE_LOW_RANK;
  noise.rank = 2;
  check(bpfree_low_rank_forward(population, x, 1, W, b, 3, 2, kBatch, kIn, kHidden, 0.5, 4, BPFREE_TANH, &noise, 0));
  print("population", population, sizeof population);

  check(bpfree_ensemble_covariance_f32(covariance, x, e, NULL, kBatch, kIn, kOutputs, BPFREE_LOCALIZATION_SEC, 0));
  print("covariance", covariance, sizeof covariance);
  check(bpfree_ensemble_init(&ensemble, BPFREE_ENKF));
  ensemble.dt = 0.5;
  ensemble.seed = 9;
  ensemble.iteration = 2;
  check(bpfree_ensemble_update_f32(ensemble_x, misfit, &rank, x, e, utilities, &variance, 1, NULL, NULL, kBatch,
                                   kIn, kOutputs, &ensemble, 0));
  print("ensemble", ensemble_x, sizeof ensemble_x);
  print("misfit", misfit, sizeof misfit);
  print("rank", &rank, sizeof rank);
  check(bpfree_ensemble_init(&ensemble, BPFREE_ETKI));
  check(bpfree_ensemble_weights_f32(transform, NULL, NULL, e, utilities, NULL, &variance, 1, kBatch, kOutputs, 0,
                                    &ensemble, 0));
  check(bpfree_ensemble_transform_f32(ensemble_x, x, transform, kBatch, kIn, 0));
  print("root", ensemble_x, sizeof ensemble_x);
  refusals();
  return 0;
}
